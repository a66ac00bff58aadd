//! Damaged files: a miss or an error, never wrong bytes.

use super::*;

const LENGTHS: [usize; 5] = [0, 300, 20, 700, 40_000];

/// A small store whose last response has a body in several parts.
async fn small() -> (TempDir, Vec<(PathBuf, Vec<u8>)>) {
    let (folder, disk) = fresh(MIB);
    for (number, length) in (0..).zip(LENGTHS) {
        disk.keep(number, length).await;
    }
    assert_eq!(disk.find(&key(4)).await[0].body.extents().len(), 3);
    disk.close().await;
    let all = files(folder.path(), "").into_iter();
    let all = all.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    (folder, all)
}

fn restore(folder: &Path, all: &[(PathBuf, Vec<u8>)]) {
    files(folder, "").iter().for_each(|file| fs::remove_file(file).unwrap());
    all.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

/// Which are found; all that are found are right.
async fn found(folder: &Path) -> Vec<bool> {
    let disk = open(folder, MIB);
    let mut found = Vec::new();
    for (number, length) in (0..).zip(LENGTHS) {
        found.push(disk.has(number, length).await);
    }
    disk.close().await;
    found
}

fn named<'a>(all: &'a [(PathBuf, Vec<u8>)], name: &str) -> &'a (PathBuf, Vec<u8>) {
    all.iter().find(|(path, _)| path.to_string_lossy().contains(name)).unwrap()
}

/// All of the first bytes, and some of the others.
fn positions(length: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < 2200 || length - at < 120 || at.is_multiple_of(997))
}

#[tokio::test]
async fn a_changed_byte_of_a_segment_is_never_given_out() {
    let (folder, all) = small().await;
    let (path, good) = named(&all, "segment");
    assert!(found(folder.path()).await.iter().all(|found| *found));
    for at in positions(good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        for known in [true, false] {
            restore(folder.path(), &all);
            if !known {
                fs::remove_file(&named(&all, "contents").0).unwrap();
            }
            fs::write(path, &bytes).unwrap();
            let found = found(folder.path()).await;
            let lost = found.iter().filter(|found| !**found).count();
            // One response at most, where it is known where the others stand. The first
            // 32 bytes are of none, of which some say nothing.
            assert!(lost > 0 || at < 32, "{at}");
            assert!(!known || at < 32 || lost == 1, "{at}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_changed_byte_of_another_file_gives_out_nothing_that_is_wrong() {
    let (folder, all) = small().await;
    for name in ["contents", "purges", "tollgate-cache"] {
        let (path, good) = named(&all, name);
        for at in 0..good.len() {
            restore(folder.path(), &all);
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(path, &bytes).unwrap();
            if name == "tollgate-cache" && at < 16 {
                let settings = DiskSettings { folder: folder.path().to_owned(), capacity: MIB };
                assert!(matches!(Disk::open(&settings), Err(OpenError::Foreign(_))));
                continue;
            }
            let found = found(folder.path()).await;
            // Contents are learned anew.
            assert!(name != "contents" || found.iter().all(|found| *found), "{name} {at}");
        }
    }
}

#[tokio::test]
async fn a_changed_byte_is_found_out_while_a_body_is_read() {
    let (_folder, disk) = fresh(64 * MIB);
    disk.keep(1, 1_000_000).await;
    let found = disk.find(&key(1)).await.remove(0);
    let [path] = &files(&disk.shared.folder, "segment")[..] else { panic!() };
    let mut bytes = fs::read(path).unwrap();
    bytes[800_000] ^= 1;
    fs::write(path, bytes).unwrap();
    let read: Vec<_> = found.body.read(0..u64::MAX).collect().await;
    assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(pieces(&found.body, 0..700_000).await.unwrap(), content(1, 1_000_000)[..700_000]);
    assert!(found.body.whole().await.is_err());
    // The next one asks for it anew.
    assert!(!disk.may_have(&key(1)) && disk.figures().failed == 2);
}

#[tokio::test]
async fn before_a_torn_end_everything_is_found() {
    let (folder, all) = small().await;
    let (path, good) = named(&all, "segment");
    let mut most = 0;
    for length in positions(good.len()) {
        restore(folder.path(), &all);
        fs::write(path, &good[..length]).unwrap();
        let found = found(folder.path()).await;
        let whole = found.iter().take_while(|found| **found).count();
        assert!(found[whole..].iter().all(|found| !found), "{length}: {found:?}");
        assert!(whole >= most, "{length}: {found:?}");
        most = whole;
    }
    assert_eq!(most, LENGTHS.len() - 1);
}

#[tokio::test]
async fn behind_a_torn_end_it_is_written_on() {
    let (folder, all) = small().await;
    let (path, good) = named(&all, "segment");
    for cut in [1, 50, 20_000] {
        restore(folder.path(), &all);
        fs::write(path, &good[..good.len() - cut]).unwrap();
        let disk = open(folder.path(), MIB);
        disk.keep(9, 500).await;
        drop(disk.clone());
        disk.close().await;
        let disk = open(folder.path(), MIB);
        assert!(disk.has(9, 500).await && disk.has(3, LENGTHS[3]).await);
        assert_eq!(files(folder.path(), "segment").len(), 1);
        // Its thread writes for as long as it is open.
        disk.close().await;
    }
}

#[tokio::test]
async fn zeros_behind_the_end_are_nothing() {
    let (folder, all) = small().await;
    let (path, good) = named(&all, "segment");
    let mut bytes = good.clone();
    bytes.extend([0; 5000]);
    fs::write(path, bytes).unwrap();
    assert!(found(folder.path()).await.iter().all(|found| *found));
    assert_eq!(fs::metadata(path).unwrap().len(), good.len() as u64);
}

#[tokio::test]
async fn a_segment_that_is_gone_takes_only_its_own_along() {
    let (folder, disk) = fresh(4 * MIB);
    for number in 0..30 {
        disk.keep(number, 50_000).await;
    }
    disk.close().await;
    let segments = files(folder.path(), "segment");
    assert!(segments.len() > 5);
    fs::remove_file(&segments[2]).unwrap();
    let disk = open(folder.path(), 4 * MIB);
    let mut there = 0;
    for number in 0..30 {
        there += u32::from(disk.has(number, 50_000).await);
    }
    assert!((15..30).contains(&there), "{there}");
    assert_eq!(u64::from(there), disk.figures().objects);
}

#[tokio::test]
async fn where_no_file_can_be_made_stores_fail_and_reads_go_on() {
    let (folder, disk) = fresh(4 * MIB);
    disk.keep(1, 5000).await;
    let path = folder.path().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    for number in 100..300 {
        disk.put(&key(number), 0, meta(number), content(number, 5000));
        disk.settled().await;
        assert!(disk.has(1, 5000).await);
    }
    let failed = disk.figures().failed;
    assert!(failed > 50, "{failed}");
    fs::rename(&moved, &path).unwrap();
    disk.keep(400, 5000).await;
    assert!(disk.has(400, 5000).await);
}
