//! Where the frames of a WebSocket begin (RFC 6455 §5.2).
//!
//! What an origin sends is followed header by header and never changed, so that
//! a Close frame can be put between two frames when the proxy is going away.

/// A Close frame of a server with code 1001, Going Away (§5.5.1, §7.4.1).
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

const FIN: u8 = 0x80;
const MASK: u8 = 0x80;
const CLOSE: u8 = 0x8;

/// How far the frames of a server are.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Frames {
    at: At,
    /// Whether a message has begun whose last fragment has not.
    fragmented: bool,
}

#[derive(Debug, Eq, PartialEq)]
enum At {
    /// Between two frames.
    Boundary,
    /// Before the byte with the length.
    Length { control: bool },
    /// Before so many more bytes of an extended length.
    Extended { left: u8, length: u64 },
    /// Before so many more bytes of the payload.
    Payload(u64),
    /// Past a Close frame, or past something that is no frame of a server.
    Over,
}

impl Frames {
    pub(super) const fn new() -> Self {
        Self { at: At::Boundary, fragmented: false }
    }

    /// Whether a frame may be put in here. Between two fragments of a message the
    /// standard allows it, but what was put in is the last that is read.
    pub(super) fn is_between(&self, messages: bool) -> bool {
        self.at == At::Boundary && !(messages && self.fragmented)
    }

    /// Whether nothing may be put in any more.
    pub(super) fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// Takes in what was sent. Told to `stop`, it goes no further than to where a
    /// frame may be put in; says how far it went.
    pub(super) fn follow(&mut self, bytes: &[u8], stop: Option<Between>) -> usize {
        let mut done = 0;
        while let Some(byte) = bytes.get(done) {
            if stop.is_some_and(|stop| self.is_between(stop == Between::Messages)) {
                break;
            }
            let byte = *byte;
            match self.at {
                At::Over => return bytes.len(),
                At::Payload(left) => {
                    let here = u64::try_from(bytes.len() - done).unwrap_or(u64::MAX).min(left);
                    self.at = payload(left - here);
                    // No more than the length of a slice.
                    done += usize::try_from(here).unwrap_or(usize::MAX);
                    continue;
                }
                At::Boundary => self.at = self.begin(byte),
                At::Length { control } => self.at = length(byte, control),
                At::Extended { left, length } => {
                    let length = length << 8 | u64::from(byte);
                    self.at = match left {
                        0 | 1 if length > u64::MAX / 2 => At::Over,
                        0 | 1 => payload(length),
                        _ => At::Extended { left: left - 1, length },
                    };
                }
            }
            done += 1;
        }
        done
    }

    /// The first byte of a frame. The reserved bits are the extensions' business.
    fn begin(&mut self, byte: u8) -> At {
        let (last, opcode) = (byte & FIN != 0, byte & 0xf);
        match opcode {
            CLOSE => return At::Over,
            0x9 | 0xa if last => return At::Length { control: true },
            0 if self.fragmented => {}
            1 | 2 if !self.fragmented => {}
            _ => return At::Over,
        }
        self.fragmented = !last;
        At::Length { control: false }
    }
}

/// Which places will do for a frame of our own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Between {
    /// Those where no message is broken off.
    Messages,
    /// All that the standard allows.
    Frames,
}

fn payload(left: u64) -> At {
    if left == 0 { At::Boundary } else { At::Payload(left) }
}

fn length(byte: u8, control: bool) -> At {
    match byte {
        // A server does not mask (§5.1).
        masked if masked & MASK != 0 => At::Over,
        126 | 127 if control => At::Over,
        126 => At::Extended { left: 2, length: 0 },
        127 => At::Extended { left: 8, length: 0 },
        short => payload(u64::from(short)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(u8::try_from(payload).unwrap()),
            126..65_536 => {
                frame.push(126);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend(u64::try_from(payload).unwrap().to_be_bytes());
            }
        }
        frame.resize(frame.len() + payload, 0xff);
        frame
    }

    /// Where a frame may be put in, found byte by byte and in one go alike.
    fn places(bytes: &[u8], between: Between) -> Vec<usize> {
        let mut single = Frames::new();
        let mut places = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            if single.is_between(between == Between::Messages) {
                places.push(at);
                let mut whole = Frames::new();
                whole.follow(&bytes[..at], None);
                assert_eq!(whole, single);
            }
            assert_eq!(single.follow(&[*byte], None), 1);
        }
        if single.is_between(between == Between::Messages) {
            places.push(bytes.len());
        }
        places
    }

    #[test]
    fn boundaries_are_found_for_every_form_of_length() {
        let sizes = [0, 1, 125, 126, 65_535, 65_536, 100_000];
        let mut bytes = Vec::new();
        let mut expected = vec![0];
        for size in sizes {
            bytes.extend(frame(0x82, size));
            expected.push(bytes.len());
        }
        assert_eq!(places(&bytes, Between::Frames), expected);
        let mut frames = Frames::new();
        assert_eq!(frames.follow(&bytes[..bytes.len() - 1], None), bytes.len() - 1);
        assert!(!frames.is_between(false));
        let rest = [&bytes[bytes.len() - 1..], &bytes].concat();
        assert_eq!(frames.follow(&rest, Some(Between::Frames)), 1);
    }

    #[test]
    fn a_message_is_not_broken_off_unless_it_has_to_be() {
        let (text, ping, more, last) = (0x01, 0x89, 0x00, 0x80);
        let parts = [frame(text, 3), frame(ping, 4), frame(more, 5), frame(last, 6)];
        let bytes = parts.concat();
        assert_eq!(places(&bytes, Between::Frames), [0, 5, 11, 18, 26]);
        assert_eq!(places(&bytes, Between::Messages), [0, 26]);
    }

    #[test]
    fn what_is_no_frame_of_a_server_is_not_meddled_with() {
        for wrong in [
            frame(0x83, 1),
            frame(0x8b, 1),
            frame(0x80, 1),
            frame(0x09, 1),
            frame(0x89, 126),
            vec![0x82, 0x81, 0, 0, 0, 0, 0],
            [vec![0x82, 127, 0x80], vec![0; 7]].concat(),
            [frame(0x01, 1), frame(0x81, 1)].concat(),
            frame(0x88, 2),
        ] {
            let mut frames = Frames::new();
            assert_eq!(frames.follow(&wrong, None), wrong.len());
            assert!(frames.is_over(), "{wrong:?}");
            assert_eq!(frames.follow(&frame(0x82, 1), Some(Between::Frames)), 3);
            assert!(!frames.is_between(false));
        }
    }
}
