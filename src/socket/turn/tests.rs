use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (here, _) = listener.accept().await.unwrap();
    (Socket::new(here), there)
}

fn waiting() -> usize {
    TURN.with_borrow(|turn| turn.as_ref().map_or(0, |turn| turn.waiting.len()))
}

/// Starts the turns of this thread.
async fn turns() -> tokio::task::JoinHandle<std::convert::Infallible> {
    let turns = tokio::spawn(end_of_turns());
    tokio::task::yield_now().await;
    turns
}

#[tokio::test]
async fn small_writes_go_out_together_at_the_end_of_the_turn() {
    let turns = turns().await;
    let (mut here, mut there) = pair().await;
    here.write_all(b"one ").await.unwrap();
    here.write_all(b"two").await.unwrap();
    here.flush().await.unwrap();
    assert_eq!(waiting(), 1);
    let mut nothing = [0; 1];
    assert!(there.try_read(&mut nothing).is_err());
    let mut all = [0; 7];
    there.read_exact(&mut all).await.unwrap();
    assert_eq!((&all, waiting()), (b"one two", 0));
    turns.abort();
}

#[tokio::test]
async fn order_is_kept_and_all_arrives_however_slowly_it_is_taken() {
    let turns = turns().await;
    let (mut here, mut there) = pair().await;
    let mut expected = Vec::new();
    for (round, size) in [10, 100_000, 3_000, 5, 4_000_000, 7].into_iter().enumerate() {
        expected.extend(vec![u8::try_from(round).unwrap(); size]);
    }
    let sent = expected.clone();
    let sending = tokio::spawn(async move {
        let mut from = 0;
        for size in [10, 100_000, 3_000, 5, 4_000_000, 7] {
            here.write_all(&sent[from..from + size]).await.unwrap();
            here.flush().await.unwrap();
            from += size;
        }
        here.shutdown().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut all = Vec::new();
    there.read_to_end(&mut all).await.unwrap();
    assert!(all == expected);
    sending.await.unwrap();
    turns.abort();
}

#[tokio::test]
async fn what_waits_is_written_though_the_connection_is_dropped_or_the_turns_end() {
    let turns = turns().await;
    let (mut here, mut there) = pair().await;
    here.write_all(b"last words").await.unwrap();
    drop(here);
    let mut all = String::new();
    there.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "last words");
    let (mut here, mut there) = pair().await;
    here.write_all(b"more").await.unwrap();
    turns.abort();
    assert!(turns.await.unwrap_err().is_cancelled());
    let mut all = [0; 4];
    there.read_exact(&mut all).await.unwrap();
    here.write_all(b"at once").await.unwrap();
    assert_eq!(waiting(), 0);
}

#[tokio::test]
async fn what_one_connection_could_not_write_goes_to_no_other() {
    let turns = turns().await;
    let (mut broken, there) = pair().await;
    there.set_zero_linger().unwrap();
    drop(there);
    let Incoming::Tcp(read) = &broken.read else { panic!("{broken:?}") };
    read.readable().await.unwrap();
    broken.write_all(b"a secret").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(broken.write_all(b"x").await.is_err());
    let (mut here, mut there) = pair().await;
    here.write_all(b"mine").await.unwrap();
    drop(here);
    let mut all = String::new();
    there.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "mine");
    turns.abort();
}

#[tokio::test]
async fn any_number_of_last_words_is_written() {
    let turns = turns().await;
    let mut pairs = Vec::new();
    for _ in 0..300 {
        pairs.push(pair().await);
    }
    let mut theres = Vec::new();
    for (mut here, there) in pairs {
        tokio::task::unconstrained(here.write_all(b"last words")).await.unwrap();
        theres.push(there);
    }
    for mut there in theres {
        let mut all = String::new();
        there.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
    }
    turns.abort();
}

#[tokio::test]
async fn who_waits_is_woken_though_the_end_of_a_turn_wrote_the_rest() {
    let turns = turns().await;
    let (mut here, mut there) = pair().await;
    let (mut other, _there) = pair().await;
    let large = vec![0; 64 * 1024];
    while tokio::time::timeout(Duration::from_millis(50), here.write_all(&large)).await.is_ok() {}
    here.write_all(b"stuck").await.unwrap();
    tokio::task::yield_now().await;
    let waiting = tokio::spawn(async move {
        here.flush().await.unwrap();
        here.write_all(b"and done").await.unwrap();
    });
    tokio::task::yield_now().await;
    // Another turn, whose end asks the socket once more.
    other.write_all(b"x").await.unwrap();
    tokio::task::yield_now().await;
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        all
    });
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(reading.await.unwrap().ends_with(b"stuckand done"));
    turns.abort();
}

#[tokio::test]
async fn without_turns_a_write_is_a_write() {
    let (mut here, mut there) = pair().await;
    here.write_all(b"x").await.unwrap();
    assert_eq!(waiting(), 0);
    assert_eq!(there.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_no_socket_that_was_dropped() {
    let turns = turns().await;
    let (mut here, there) = pair().await;
    // Fills the system's buffers, so that the next small write sticks.
    let large = vec![0; 64 * 1024];
    while tokio::time::timeout(Duration::from_millis(50), here.write_all(&large)).await.is_ok() {}
    let out = Arc::downgrade(&here.out);
    here.write_all(b"stuck").await.unwrap_or_default();
    tokio::task::yield_now().await;
    drop(here);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(out.upgrade().is_none());
    drop(there);
    turns.abort();
}

#[tokio::test]
async fn bytes_that_were_read_too_early_are_read_again_first() {
    let (here, mut there) = tokio::net::UnixStream::pair().unwrap();
    there.write_all(b" world").await.unwrap();
    drop(there);
    let mut here = Socket::after(Bytes::from_static(b"hello"), here);
    let mut some = [0; 3];
    assert_eq!(here.read(&mut some).await.unwrap(), 3);
    let mut rest = String::new();
    here.read_to_string(&mut rest).await.unwrap();
    assert_eq!((&some, &*rest), (b"hel", "lo world"));
}

#[tokio::test]
async fn a_unix_socket_takes_part_in_the_turns() {
    let turns = turns().await;
    let (here, mut there) = tokio::net::UnixStream::pair().unwrap();
    let mut here = Socket::new(here);
    here.write_all(b"one ").await.unwrap();
    here.write_all(b"two").await.unwrap();
    assert_eq!(waiting(), 1);
    assert!(there.try_read(&mut [0; 1]).is_err());
    let mut all = [0; 7];
    there.read_exact(&mut all).await.unwrap();
    assert_eq!((&all, waiting()), (b"one two", 0));
    here.shutdown().await.unwrap();
    assert_eq!(there.read(&mut all).await.unwrap(), 0);
    turns.abort();
}
