//! What it costs: `cargo test --release --lib disk::tests::measured -- --ignored --nocapture`.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn rate(count: u64, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let mib = bytes as f64 / seconds / MIB as f64;
    format!("{:.0} a second, {mib:.0} MiB/s", count as f64 / seconds)
}

/// Stores, and waits only where the disk is behind.
async fn fill(disk: &Disk, numbers: Range<u64>, body: &Bytes) {
    for number in numbers {
        loop {
            let writing = disk.begin(&key(number), 0, &[]);
            if let Some(mut writing) = writing
                && writing.push(body.clone())
            {
                writing.finish(meta(number));
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    disk.settled().await;
}

async fn speed(length: usize, count: u64) {
    let (_folder, disk) = fresh(4096 * MIB);
    let body = content(1, length);
    let begun = Instant::now();
    fill(&disk, 0..count, &body).await;
    let bytes = count * length as u64;
    println!("{length}: {} stored", rate(count, bytes, begun.elapsed()));
    for together in [1, 16] {
        let begun = Instant::now();
        let tasks = (0..together).map(|task| {
            let disk = disk.clone();
            tokio::spawn(async move {
                let mut read = 0;
                for number in (task..count).step_by(together as usize) {
                    let number = number * 7919 % count;
                    let found = disk.find(&key(number)).await.remove(0);
                    let mut reading = Box::pin(found.body.read(0..u64::MAX));
                    while let Some(piece) = reading.next().await {
                        read += piece.unwrap().len() as u64;
                    }
                }
                read
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut read = 0;
        for task in tasks {
            read += task.await.unwrap();
        }
        assert_eq!(read, bytes);
        println!("{length}: {} read by {together}", rate(count, bytes, begun.elapsed()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn how_fast_it_is() {
    speed(1024, 200_000).await;
    speed(100 * 1024, 10_000).await;
    speed(1024 * 1024, 1000).await;
}

#[tokio::test]
#[ignore = "measures"]
async fn how_long_opening_takes_and_what_a_response_takes_of_memory() {
    const COUNT: u64 = 1_000_000;
    let (folder, disk) = fresh(4096 * MIB);
    fill(&disk, 0..COUNT, &content(1, 1024)).await;
    disk.close().await;
    drop(disk);
    let begun = Instant::now();
    let disk = open(folder.path(), 4096 * MIB);
    let took = begun.elapsed();
    assert_eq!(disk.figures().objects, COUNT);
    let each = disk.shared.index.memory() as f64 / COUNT as f64;
    println!("opened in {took:?}, {each:.1} bytes of memory each");
    println!("{} bytes on disk each", disk.figures().bytes / COUNT);
    disk.close().await;
    drop(disk);
    // As after a kill: the last segment is read through.
    fs::remove_file(files(folder.path(), "contents").pop().unwrap()).unwrap();
    let begun = Instant::now();
    let disk = open(folder.path(), 4096 * MIB);
    println!("opened in {:?} without the last contents", begun.elapsed());
    assert!(disk.all(&key(COUNT - 1)).await == [(meta(COUNT - 1), content(1, 1024))]);
    let begun = Instant::now();
    disk.close().await;
    drop(disk);
    files(folder.path(), "contents").iter().for_each(|file| fs::remove_file(file).unwrap());
    let begun = (begun.elapsed(), Instant::now());
    let _disk = open(folder.path(), 4096 * MIB);
    println!("closed in {:?}, opened in {:?} without any", begun.0, begun.1.elapsed());
}

/// A number among so many, the lower the likelier (Zipf, 0.9).
fn popular(draw: u64, among: f64) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(draw);
    let uniform = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64;
    let s = 1.0 - 0.9;
    (((among.powf(s) - 1.0) * uniform + 1.0).powf(1.0 / s) - 1.0) as u64
}

#[tokio::test]
#[ignore = "measures"]
async fn how_much_is_written_again() {
    for share in [0, 4, 8, 12] {
        rewriting(share).await;
    }
}

/// With so many sixteenths of each segment for what is written again.
async fn rewriting(share: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (owned, usable) = folder::Folder::take(folder.path()).unwrap();
    let mut layout = Layout::of(256 * MIB);
    layout.rescued = layout.segment * share / 16;
    let (shared, active) = recover::recover(&owned, usable, layout).unwrap();
    let shared = Arc::new(shared);
    let jobs = writer::start(shared.clone(), owned, active).unwrap();
    let disk = Disk { shared, jobs };
    let length = |number: u64| [500, 2000, 8000, 30_000, 60_000][number as usize % 5];
    // Four times as much as there is room for.
    let among = (4 * 256 * MIB / 20_100) as f64;
    let (mut hits, mut stored, mut written) = (0, 0, 0);
    let draws = 600_000;
    let begin = |disk: &Disk| disk.shared.next_offset();
    for draw in 0..draws {
        let number = popular(draw, among);
        if disk.may_have(&key(number)) && !disk.find(&key(number)).await.is_empty() {
            hits += u64::from(draw > draws / 2);
            continue;
        }
        let Some(mut writing) = disk.begin(&key(number), 0, &[]) else { continue };
        writing.push(content(number, length(number)));
        writing.finish(meta(number));
        if draw == draws / 2 {
            disk.settled().await;
            (stored, written) = (0, begin(&disk));
        }
        stored += length(number) as u64 + 130;
    }
    disk.settled().await;
    let amplification = (begin(&disk) - written) as f64 / stored as f64;
    println!(
        "{share}/16: {:.3} hits, {amplification:.2} bytes written for each stored",
        hits as f64 / (draws / 2) as f64
    );
}

impl Shared {
    /// All that was ever written, as segments are filled one after another.
    fn next_offset(&self) -> u64 {
        let segments = self.segments.load();
        let (number, last) = segments.last_key_value().unwrap();
        u64::from(*number) * self.layout.segment + last.size()
    }
}
