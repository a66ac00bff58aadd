//! Windows over HTTP/2 that stay shut or open by a crack: who takes nothing is
//! cut in time, and nobody else waits for it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::h2::*;
use crate::support::origin::Origin;
use crate::support::proxy::{Running, Setup};
use crate::support::{client, within};

const BIG: usize = 1_000_000;

/// Sends a megabyte for `/big`, and little for everything else.
async fn origin() -> Origin {
    Origin::scripted(|mut connection| async move {
        while let Some(request) = connection.request().await {
            if request.contains(" /big") {
                connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n")).await;
                connection.write(vec![b'x'; BIG]).await;
            } else {
                connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

/// An address that takes no connection any more, and what keeps it so.
async fn stalled() -> (SocketAddr, impl Drop) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        let connect = TcpStream::connect(address);
        if let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), connect).await {
            held.push(connected.unwrap());
        }
    }
    struct Held(#[allow(dead_code, reason = "kept open")] socket2::Socket, Vec<TcpStream>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.1.clear();
        }
    }
    (address, Held(socket, held))
}

fn ok() -> Outcome {
    Outcome::Answer(200, "ok".to_owned())
}

async fn serves_others(proxy: &Running) {
    assert_eq!(H2::connect(proxy.address).await.get(1, "/").await, ok());
    assert_eq!(client::get(proxy.address, "/", "").await.status, 200);
}

#[tokio::test]
async fn a_window_that_is_never_opened_ends_the_connection_in_time() {
    within(async {
        let origin = origin().await;
        let proxy = Setup::forwarding_to(&origin).listener("send_timeout = \"300ms\"").start();
        let tries = [0, 1].map(async |window| {
            let mut client = H2::with(proxy.address, &[(INITIAL_WINDOW_SIZE, window)]).await;
            // Many streams, each with a response that waits.
            for number in 0..50 {
                client.send(get(2 * number + 1, "/big")).await;
            }
            assert_eq!(client.status(99).await, 200);
            // It is there, and it answers pings; it takes nothing, that is all.
            let mut taken = 0;
            while let Some(frame) = client.next().await {
                if frame.kind == DATA {
                    taken += frame.payload.len();
                }
            }
            assert!(taken <= 50 * window as usize, "{taken} bytes");
            serves_others(&proxy).await;
        });
        futures_util::future::join_all(tries).await;
    })
    .await;
}

#[tokio::test]
async fn a_window_opened_byte_by_byte_is_a_flood() {
    within(async {
        let origin = origin().await;
        let limit = "[listener.h2]\nmax_control_frames = 100\n";
        let proxy = Setup::forwarding_to(&origin).listener(limit).start();
        let mut client = H2::with(proxy.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        client.send(get(1, "/big")).await;
        assert_eq!(client.status(1).await, 200);
        let ended = client.flood(&window_update(1, 1).repeat(100_000)).await;
        assert!(ended.code().is_none_or(|code| code == ENHANCE_YOUR_CALM), "{:?}", ended.goaway);
        // What was handed over earns a few hundred.
        assert!(ended.count(DATA) < 2000, "{} bytes, one by one", ended.count(DATA));
        serves_others(&proxy).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_at_all_is_cut() {
    within(async {
        let origin = origin().await;
        let proxy = Setup::forwarding_to(&origin).listener("send_timeout = \"300ms\"").start();
        let huge = [(INITIAL_WINDOW_SIZE, u32::MAX >> 1)];
        let mut client = H2::with(proxy.address, &huge).await;
        client.send(window_update(0, (u32::MAX >> 1) - 65_535)).await;
        for number in 0..100 {
            client.send(get(2 * number + 1, "/big")).await;
        }
        // What did not fit into the sockets is given up.
        while !proxy.log_lines(1).await.iter().any(|line| line.contains("aborted")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        serves_others(&proxy).await;
        let ended = client.ended().await;
        let taken: usize =
            ended.frames.iter().filter(|f| f.kind == DATA).map(|f| f.payload.len()).sum();
        assert!(taken < 100 * BIG, "all of it fitted into the sockets");
    })
    .await;
}

#[tokio::test]
async fn a_response_that_is_not_read_stalls_no_other_of_its_connection() {
    within(async {
        let origin = origin().await;
        let proxy = Setup::forwarding_to(&origin).start();
        let mut client = H2::connect(proxy.address).await;
        client.send(window_update(0, 10_000_000)).await;
        client.send(get(1, "/big")).await;
        client.send(get(3, "/big")).await;
        let (mut unread, mut taken) = (0, 0);
        while taken < BIG {
            let frame = client.next().await.unwrap();
            assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
            let length = u32::try_from(frame.payload.len()).unwrap();
            match (frame.kind, frame.stream) {
                (DATA, 1) => unread += length,
                (DATA, 3) => {
                    taken += frame.payload.len();
                    if length > 0 {
                        client.send(window_update(3, length)).await;
                    }
                }
                _ => {}
            }
        }
        for stream in (5..45).step_by(2) {
            assert_eq!(client.get(stream, "/").await, ok());
        }
        assert_eq!(unread, 65_535, "its window, and no more");
        // And it is still there to be read.
        client.send(window_update(1, 1_000_000)).await;
        let mut rest = BIG - unread as usize;
        while rest > 0 {
            let frame = client.next().await.unwrap();
            if (frame.kind, frame.stream) == (DATA, 1) {
                rest -= frame.payload.len();
            }
        }
    })
    .await;
}

/// Sends a body as its stream's window allows.
async fn upload(client: &mut H2, stream: u32, length: usize) -> Outcome {
    client.send(post(stream, "/")).await;
    let (mut window, mut left) = (65_535_usize, length);
    while left > 0 {
        let part = left.min(window).min(16_000);
        if part > 0 {
            client.send(data(stream, &vec![b'x'; part], false)).await;
            (left, window) = (left - part, window - part);
            continue;
        }
        let frame = client.next().await.unwrap();
        assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
        if (frame.kind, frame.stream) == (WINDOW_UPDATE, stream) {
            window += u32::from_be_bytes(frame.payload.try_into().unwrap()) as usize;
        }
    }
    client.send(data(stream, b"", true)).await;
    client.outcome(stream).await
}

/// One upstream that answers, and one at `/stalled` that nothing comes through to.
fn both(origin: &Origin, stalled: SocketAddr) -> Setup {
    Setup::new(format!(
        "[[route]]\nname = \"all\"\nupstream = \"origin\"\n\
         [[route]]\nname = \"stalled\"\npath = \"/stalled\"\nupstream = \"stalled\"\n\
         [[upstream]]\nname = \"origin\"\norigins = [\"{origin}\"]\n\
         [[upstream]]\nname = \"stalled\"\norigins = [\"http://{stalled}\"]\n\
         [upstream.timeouts]\nconnect = \"1h\"\n"
    ))
}

#[tokio::test]
async fn uploads_that_nobody_takes_stall_no_other_of_their_connection() {
    within(async {
        let origin = origin().await;
        let (address, _held) = stalled().await;
        let proxy = both(&origin, address).start();
        let mut client = H2::connect(proxy.address).await;
        assert!(client.settled().await);
        // A dozen windows, all full; the connection's has room for sixteen.
        for number in 0..12 {
            let stream = 2 * number + 1;
            client.send(post(stream, "/stalled")).await;
            for part in [16_384, 16_384, 16_384, 16_383] {
                client.send(data(stream, &vec![b'x'; part], false)).await;
            }
        }
        assert_eq!(upload(&mut client, 101, 3 * BIG).await, ok());
        assert_eq!(client.get(103, "/").await, ok());
    })
    .await;
}

#[tokio::test]
async fn uploads_that_nobody_takes_hold_no_more_than_the_window_of_their_connection() {
    within(async {
        let origin = origin().await;
        let (address, _held) = stalled().await;
        let proxy = both(&origin, address)
            .listener("[listener.h2]\nconnection_window = \"128KiB\"")
            .start();
        let mut client = H2::connect(proxy.address).await;
        assert!(client.settled().await);
        for number in 0..2 {
            let stream = 2 * number + 1;
            client.send(post(stream, "/stalled")).await;
            for _ in 0..4 {
                client.send(data(stream, &[b'x'; 16_384], false)).await;
            }
        }
        // That was all; whatever else is sent is one byte too many.
        assert!(client.settled().await);
        assert_eq!(client.get(5, "/").await, ok());
        client.send([post(7, "/stalled"), data(7, b"x", false)].concat()).await;
        let ended = client.ended().await;
        assert_eq!(ended.code(), Some(FLOW_CONTROL_ERROR));
        serves_others(&proxy).await;
    })
    .await;
}
