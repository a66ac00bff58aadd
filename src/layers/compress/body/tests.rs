use std::collections::VecDeque;
use std::io::Read as _;

use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;
use crate::layers::compress::room::Room;
use crate::layers::compress::{CompressionLevel, ContentCoding};

/// What a source does when it is asked.
#[derive(Clone, Debug)]
enum Step {
    Data(Vec<u8>),
    /// Nothing has come; it wakes whoever asks at once.
    Pause,
    Trailers(&'static [(&'static str, &'static str)]),
    Fail,
}

struct Source(VecDeque<Step>);

impl http_body::Body for Source {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(step) = self.0.pop_front() else { return Poll::Ready(None) };
        Poll::Ready(Some(match step {
            Step::Data(data) => Ok(Frame::data(data.into())),
            Step::Pause => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Step::Trailers(fields) => {
                let fields = fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
                Ok(Frame::trailers(fields.collect()))
            }
            Step::Fail => Err("it broke".into()),
        }))
    }
}

fn compressing(coding: ContentCoding, level: CompressionLevel, steps: Vec<Step>) -> Compressing {
    let encoder = Encoder::new(coding, level, None).unwrap();
    let place = Room::new(1).take(1, None).unwrap();
    let source = Body::new(Source(steps.into()));
    Compressing::new(source, encoder, place, CompressionCounts::default())
}

fn decoded(coding: ContentCoding, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match coding {
        ContentCoding::Zstd => return zstd::stream::decode_all(bytes),
        ContentCoding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut content),
        ContentCoding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut content),
    }?;
    Ok(content)
}

/// What can be read of a coding that has not come to its end.
fn readable(coding: ContentCoding, bytes: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn std::io::Read + '_> = match coding {
        ContentCoding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        ContentCoding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
        ContentCoding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
    };
    let (mut content, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = reader.read(&mut chunk) {
        content.extend_from_slice(&chunk[..count]);
    }
    content
}

fn codings() -> impl Strategy<Value = ContentCoding> {
    prop::sample::select(ContentCoding::ALL.to_vec())
}

fn levels() -> impl Strategy<Value = CompressionLevel> {
    use CompressionLevel::{Best, Default, Fast};
    prop::sample::select(vec![Fast, Default, Best])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let text = (any::<u8>(), 0..60_000_usize).prop_map(|(seed, length)| {
        (0..length).map(|i| b"abcdefgh"[(i / 3 + i * usize::from(seed)) % 8]).collect()
    });
    let noise = prop::collection::vec(any::<u8>(), 0..2_000);
    let step = prop_oneof![
        2 => text.prop_map(Step::Data),
        2 => noise.prop_map(Step::Data),
        1 => Just(Step::Pause),
    ];
    prop::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_in_whatever_pieces_comes_out_again(
        coding in codings(),
        level in levels(),
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole: Vec<u8> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Data(data) => Some(data.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let body = compressing(coding, level, steps);
        let bytes = runtime.block_on(body.collect()).unwrap().to_bytes();
        prop_assert_eq!(decoded(coding, &bytes).unwrap(), whole);
    }
}

#[tokio::test]
async fn what_has_come_goes_on_before_a_pause() {
    for coding in ContentCoding::ALL {
        let steps = vec![
            Step::Data(b"the first part".to_vec()),
            Step::Pause,
            Step::Pause,
            Step::Data(b", and the second".to_vec()),
        ];
        let mut body = compressing(coding, CompressionLevel::Default, steps);
        let mut seen = Vec::new();
        let poll = |body: &mut Compressing, seen: &mut Vec<u8>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match Pin::new(body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    seen.extend_from_slice(&frame.into_data().unwrap());
                    true
                }
                Poll::Pending => false,
                Poll::Ready(other) => panic!("{other:?}"),
            }
        };
        while poll(&mut body, &mut seen) {}
        assert_eq!(readable(coding, &seen), b"the first part", "{coding}");
        let rest = body.collect().await.unwrap().to_bytes();
        seen.extend_from_slice(&rest);
        assert_eq!(decoded(coding, &seen).unwrap(), b"the first part, and the second");
    }
}

#[tokio::test]
async fn trailers_pass_except_digests_of_what_was() {
    let steps = vec![
        Step::Data(b"x".to_vec()),
        Step::Trailers(&[("server-timing", "a"), ("content-digest", "sha-256=:x:")]),
    ];
    let body = compressing(ContentCoding::Gzip, CompressionLevel::Default, steps);
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().unwrap().clone();
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["server-timing"], "a");
    assert_eq!(decoded(ContentCoding::Gzip, &collected.to_bytes()).unwrap(), b"x");
}

#[tokio::test]
async fn a_source_that_fails_ends_the_body_with_its_error() {
    for coding in ContentCoding::ALL {
        let steps = vec![Step::Data(vec![b'x'; 1000]), Step::Pause, Step::Fail];
        let mut body = compressing(coding, CompressionLevel::Default, steps);
        let mut seen = Vec::new();
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => seen.extend_from_slice(&frame.into_data().unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "it broke");
        assert_eq!(readable(coding, &seen).len(), 1000);
        // Nobody takes what came for the whole.
        assert!(decoded(coding, &seen).is_err(), "{coding}");
    }
}

#[test]
fn one_poll_takes_no_more_than_a_piece_and_gives_no_more_than_one() {
    for coding in ContentCoding::ALL {
        // Noise does not become shorter, and nothing at all of the same byte is left.
        let noise: Vec<u8> = (0..200_000_u32)
            .flat_map(|i| i.wrapping_mul(2_654_435_761).rotate_left(i).to_le_bytes())
            .collect();
        let steps = vec![Step::Data(noise), Step::Data(vec![0; 1_000_000])];
        let mut body = compressing(coding, CompressionLevel::Fast, steps);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut before = 0;
        let mut yields = 0;
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(frame)) => {
                    assert!(frame.unwrap().into_data().unwrap().len() <= PIECE);
                }
                Poll::Pending => yields += 1,
                Poll::Ready(None) => break,
            }
            let taken = body.tally.taken;
            assert!(taken - before <= PIECE as u64);
            before = taken;
        }
        assert!(yields > 0, "{coding}");
        assert_eq!(before, 1_800_000);
    }
}

#[tokio::test]
async fn nothing_becomes_an_empty_coding() {
    for coding in ContentCoding::ALL {
        let body = compressing(coding, CompressionLevel::Default, vec![Step::Pause]);
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(decoded(coding, &bytes).unwrap(), b"");
    }
}

#[test]
fn a_length_that_was_announced_wrongly_is_an_error_or_makes_no_difference() {
    for coding in ContentCoding::ALL {
        let mut encoder = Encoder::new(coding, CompressionLevel::Default, Some(5)).unwrap();
        let came = encoder.write(b"far more than five").and_then(|()| encoder.finish());
        if came.is_ok() {
            assert_eq!(decoded(coding, &encoder.take()).unwrap(), b"far more than five");
        }
    }
}
