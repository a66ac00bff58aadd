//! The encoders, of which each is a kept library's.

use std::io;

use super::{CompressionLevel, ContentCoding};

#[cfg(feature = "compression")]
pub(super) use with::Encoder;
#[cfg(not(feature = "compression"))]
pub(super) use without::Encoder;

/// How far back an encoder looks at most, as a power of two: 512 KiB. Longer windows cost
/// memory here and with every client, and gain nothing that could be measured on text.
const WINDOW: u32 = 19;

/// What an encoder takes of memory at most, in bytes: what was measured, rounded up.
pub(super) fn memory(coding: ContentCoding, level: CompressionLevel, length: Option<u64>) -> usize {
    use CompressionLevel::{Best, Default, Fast};
    let (whole, least) = match (coding, level) {
        (ContentCoding::Gzip, _) => return 448 << 10,
        (ContentCoding::Brotli, Fast) => (2304 << 10, 320 << 10),
        (ContentCoding::Brotli, Default) => (3840 << 10, 768 << 10),
        (ContentCoding::Brotli, Best) => (5376 << 10, 1024 << 10),
        (ContentCoding::Zstd, Fast) => (1024 << 10, 256 << 10),
        (ContentCoding::Zstd, Default) => (1536 << 10, 256 << 10),
        (ContentCoding::Zstd, Best) => (5760 << 10, 512 << 10),
    };
    // What is short takes a short window, and with most of them smaller tables.
    if length.is_some_and(|length| length <= SHORT) { least } else { whole }
}

/// Up to which length content counts as short.
const SHORT: u64 = 16 * 1024;

/// A window for content of this length.
#[cfg_attr(not(feature = "compression"), allow(dead_code, reason = "there are no encoders"))]
fn window(length: Option<u64>) -> u32 {
    let Some(length) = length else { return WINDOW };
    (u64::BITS - length.saturating_sub(1).leading_zeros()).clamp(10, WINDOW)
}

#[cfg(feature = "compression")]
mod with {
    use std::io::Write as _;

    use brotli::CompressorWriter;
    use brotli::enc::BrotliEncoderParams;
    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zstd::zstd_safe::CParameter;

    use super::{CompressionLevel, ContentCoding, io, window};

    /// Takes content in pieces and gives it out in its coding.
    pub(in super::super) struct Encoder(State);

    enum State {
        Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
        Brotli(Box<CompressorWriter<Vec<u8>>>),
        Gzip(Box<GzEncoder<Vec<u8>>>),
        Finished(Vec<u8>),
    }

    impl Encoder {
        /// `length` is that of the content, if it is known.
        pub(in super::super) fn new(
            coding: ContentCoding,
            level: CompressionLevel,
            length: Option<u64>,
        ) -> io::Result<Self> {
            let of = |fast: i32, default: i32, best: i32| match level {
                CompressionLevel::Fast => fast,
                CompressionLevel::Default => default,
                CompressionLevel::Best => best,
            };
            let sink = Vec::new();
            Ok(Self(match coding {
                ContentCoding::Zstd => {
                    let mut encoder = zstd::stream::write::Encoder::new(sink, of(1, 3, 7))?;
                    encoder.set_parameter(CParameter::WindowLog(window(length)))?;
                    // By this the tables are as large as they need to be.
                    encoder.set_pledged_src_size(length)?;
                    State::Zstd(Box::new(encoder))
                }
                ContentCoding::Brotli => {
                    let length = length.and_then(|length| usize::try_from(length).ok());
                    let params = BrotliEncoderParams {
                        quality: of(2, 4, 6),
                        lgwin: i32::try_from(window(length.map(|l| l as u64))).unwrap_or(19),
                        size_hint: length.unwrap_or_default(),
                        ..BrotliEncoderParams::default()
                    };
                    State::Brotli(Box::new(CompressorWriter::with_params(sink, 4096, &params)))
                }
                ContentCoding::Gzip => {
                    let level = Compression::new(of(4, 6, 9).unsigned_abs());
                    State::Gzip(Box::new(GzEncoder::new(sink, level)))
                }
            }))
        }

        pub(in super::super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
            match &mut self.0 {
                State::Zstd(encoder) => encoder.write_all(piece),
                State::Brotli(encoder) => encoder.write_all(piece),
                State::Gzip(encoder) => encoder.write_all(piece),
                State::Finished(_) => Err(io::ErrorKind::WriteZero.into()),
            }
        }

        /// Has all that was written come out.
        pub(in super::super) fn flush(&mut self) -> io::Result<()> {
            match &mut self.0 {
                State::Zstd(encoder) => encoder.flush(),
                State::Brotli(encoder) => encoder.flush(),
                State::Gzip(encoder) => encoder.flush(),
                State::Finished(_) => Ok(()),
            }
        }

        /// Ends the coding, and gives back what the encoder took of memory.
        pub(in super::super) fn finish(&mut self) -> io::Result<()> {
            self.0 = State::Finished(
                match std::mem::replace(&mut self.0, State::Finished(Vec::new())) {
                    State::Zstd(encoder) => encoder.finish()?,
                    State::Brotli(encoder) => encoder.into_inner(),
                    State::Gzip(encoder) => encoder.finish()?,
                    State::Finished(rest) => rest,
                },
            );
            Ok(())
        }

        /// What has come out.
        pub(in super::super) fn take(&mut self) -> Bytes {
            let sink = match &mut self.0 {
                State::Zstd(encoder) => encoder.get_mut(),
                State::Brotli(encoder) => encoder.get_mut(),
                State::Gzip(encoder) => encoder.get_mut(),
                State::Finished(rest) => rest,
            };
            std::mem::take(sink).into()
        }
    }
}

#[cfg(not(feature = "compression"))]
mod without {
    use bytes::Bytes;

    use super::{CompressionLevel, ContentCoding, io};

    /// None there is: this build cannot compress.
    pub(in super::super) enum Encoder {}

    impl Encoder {
        pub(in super::super) fn new(
            _: ContentCoding,
            _: CompressionLevel,
            _: Option<u64>,
        ) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in super::super) fn write(&mut self, _: &[u8]) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn flush(&mut self) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn finish(&mut self) -> io::Result<()> {
            match *self {}
        }

        pub(in super::super) fn take(&mut self) -> Bytes {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn a_window_is_as_long_as_the_content_within_bounds() {
        assert_eq!(window(None), 19);
        assert_eq!(window(Some(0)), 10);
        assert_eq!(window(Some(1024)), 10);
        assert_eq!(window(Some(1025)), 11);
        assert_eq!(window(Some(10_000)), 14);
        assert_eq!(window(Some(u64::MAX)), 19);
    }
}
