//! Processes of their own: killed while they write, and such as may write little.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use super::*;

/// Which part a process plays.
const PART: &str = "TOLLGATE_TEST_PART";

const FOLDER: &str = "TOLLGATE_TEST_FOLDER";

const CAPACITY: u64 = 512 * MIB;

const NAME: &str = "layers::cache::disk::tests::killed::another_process";

fn length(number: u64) -> usize {
    match number % 50 {
        0 => 400_000,
        1 => 80_000,
        rest => rest as usize * 30,
    }
}

/// Some are purged soon after they were stored.
fn is_purged(number: u64) -> bool {
    number % 10 == 5
}

/// Not a test of its own: the other process of the tests below.
#[test]
#[ignore = "the other process of other tests"]
fn another_process() {
    // Somebody may run all tests that are to be ignored.
    let Ok(part) = std::env::var(PART) else { return };
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match &*part {
        "stores" => runtime.block_on(stores(&folder)),
        "may write little" => runtime.block_on(may_write_little(&folder)),
        part => panic!("{part}"),
    }
    std::process::exit(0);
}

/// Says how far it has come, until it is killed.
async fn stores(folder: &Path) {
    let disk = open(folder, CAPACITY);
    let first = disk.figures().objects;
    for number in first.. {
        let Some(mut writing) = disk.begin(&key(number), 0, &[]) else { panic!("too busy") };
        assert!(writing.push(content(number, length(number))));
        writing.finish(meta(number));
        if is_purged(number) {
            disk.purge(&Wiped::Key(&key(number)), false);
        }
        if number % 50 == 49 {
            disk.settled().await;
            let mut out = std::io::stdout().lock();
            writeln!(out, "so far {number}").unwrap();
            out.flush().unwrap();
        }
    }
}

fn another(part: &str, folder: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    // A file may not grow beyond a few KiB, which is an error and not a signal.
    let limits = if part == "stores" { "" } else { "trap '' XFSZ; ulimit -f 256;" };
    let run = format!("{limits} exec \"$0\" --exact {NAME} --ignored --nocapture");
    command.args(["-c", &run]).arg(std::env::current_exe().unwrap());
    command.env(PART, part).env(FOLDER, folder).stdout(Stdio::piped());
    command
}

/// Kills a process as soon as it has said so many times how far it has come. The last
/// number that is surely stored.
fn killed(mut process: Child, times: usize) -> u64 {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut numbers = lines.filter_map(|line| line.split_once("so far ")?.1.parse().ok());
    let last = numbers.nth(times - 1).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    // It may have come further before it was killed.
    numbers.last().unwrap_or(last)
}

#[tokio::test]
async fn what_a_killed_process_has_stored_is_there_and_what_it_purged_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for times in [1, 2, 5, 9, 20] {
        let last = killed(another("stores", folder.path()).spawn().unwrap(), times);
        let disk = open(folder.path(), CAPACITY);
        let mut found = 0;
        for number in 0..last + 2000 {
            let has = disk.has(number, length(number)).await;
            if number <= last || is_purged(number) {
                assert_eq!(has, !is_purged(number), "{number} of {last}");
            }
            found += u64::from(has);
        }
        assert!(found > last / 2 && disk.figures().failed == 0);
        // The next one begins there, with nothing that had been half done.
        for number in 0..last + 2000 {
            if is_purged(number) || number > last {
                disk.keep(number, length(number)).await;
                disk.purge(&Wiped::Key(&key(number)), !is_purged(number));
            }
        }
        disk.purge(&Wiped::All, false);
        disk.close().await;
    }
}

/// What is beyond the limit fails, and it goes on.
async fn may_write_little(folder: &Path) {
    let disk = open(folder, CAPACITY);
    let reads = |number| disk.has(number, 5000);
    for number in 0..100 {
        disk.keep(number, 5000).await;
    }
    let mut there = 0;
    for number in 0..100 {
        there += u64::from(reads(number).await);
    }
    let figures = disk.figures();
    assert!((1..100).contains(&there), "{there}");
    assert_eq!((there, there, 100 - there), (figures.objects, figures.written, figures.failed));
    assert!(disk.begin(&key(0), 0, &[]).is_some_and(|mut long| {
        long.push(content(0, 3_000_000));
        long.finish(meta(0));
        true
    }));
    disk.settled().await;
    // Others have been sent what came after it.
    assert!(!reads(0).await && reads(1).await);
    disk.close().await;
    // The tail that could not be written is not there.
    let disk = open(folder, CAPACITY);
    assert_eq!(disk.figures().objects, there);
    for number in 0..there {
        assert!(disk.has(number, 5000).await);
    }
    // Nor can a purge be written at last: it holds, and without it nothing is believed.
    for number in 0..5000_u32 {
        disk.purge(&Wiped::Tag(&number.to_string()), true);
    }
    disk.purge(&Wiped::Key(&key(3)), false);
    assert!(!disk.has(3, 5000).await && disk.has(2, 5000).await);
    assert!(disk.figures().failed > 0);
    disk.close().await;
    assert_eq!(open(folder, CAPACITY).figures().objects, 0);
    println!("so far {there}");
}

#[test]
fn on_a_full_disk_stores_fail_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = another("may write little", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("so far "), "{text}");
}
