//! Which route a request takes.

mod settings;

pub use settings::{
    Action, FixedResponse, ForwardAction, HostPattern, Match, OriginHost, PathPattern, Redirect,
    RedirectTo,
};
