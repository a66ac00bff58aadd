//! `[cache.fleet]`

/// What goes by way of Redis to the caches of other instances.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CacheFleetSettings {
    /// The key of the Redis stream. Default `tollgate:purges`.
    pub stream: String,
    /// How many purges the stream keeps, about. An instance that missed more has all that
    /// it stores validated before it is used. Default 10,000.
    pub max_length: u32,
    /// Whether what POST, PUT, DELETE and their like make invalid (RFC 9111 §4.4) is told
    /// as well. Default false.
    pub unsafe_methods: bool,
}

impl Default for CacheFleetSettings {
    fn default() -> Self {
        Self { stream: "tollgate:purges".to_owned(), max_length: 10_000, unsafe_methods: false }
    }
}
