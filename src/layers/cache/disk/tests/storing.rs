//! Storing, finding, renewing; opening again.

use super::*;

const LENGTHS: [usize; 8] = [0, 1, 1000, 65_536, 65_537, 262_144, 262_145, 1_000_003];

#[tokio::test]
async fn what_is_stored_is_found_whole_and_in_ranges_now_and_after_opening_again() {
    let (folder, mut disk) = fresh(64 * MIB);
    for (number, length) in (0..).zip(LENGTHS) {
        let mut writing = disk.begin(&key(number), 0, &[]).unwrap();
        for piece in content(number, length).chunks(70_001) {
            assert!(writing.push(Bytes::copy_from_slice(piece)));
        }
        writing.finish(meta(number));
    }
    disk.settled().await;
    for _ in 0..2 {
        for (number, length) in (0..).zip(LENGTHS) {
            assert!(disk.has(number, length).await, "{length}");
            let found = disk.find(&key(number)).await.remove(0);
            assert_eq!(found.body.length(), length as u64);
            let expected = content(number, length);
            for range in
                [0..u64::MAX, 0..0, 5..6, 262_143..262_146, 300_000..300_000, 900_000..999_999]
            {
                let start = (range.start as usize).min(length);
                let end = (range.end.min(length as u64) as usize).max(start);
                let read = pieces(&found.body, range).await.unwrap();
                assert!(read == expected[start..end], "{start}..{end} of {length}");
            }
        }
        let figures = disk.figures();
        assert_eq!((figures.objects, figures.failed), (LENGTHS.len() as u64, 0));
        assert_eq!(figures.bytes, taken(folder.path()));
        disk.close().await;
        disk = open(folder.path(), 64 * MIB);
    }
}

#[tokio::test]
async fn a_response_that_was_not_finished_was_never_there() {
    let (_folder, disk) = fresh(64 * MIB);
    let mut writing = disk.begin("k\n", 0, &[]).unwrap();
    assert!(writing.push(content(1, 1_000_000)));
    disk.settled().await;
    assert!(!disk.may_have("k\n") && disk.find("k\n").await.is_empty());
    drop(writing);
    disk.settled().await;
    assert!(!disk.may_have("k\n"));
    let figures = disk.figures();
    assert_eq!((figures.objects, figures.written, figures.failed), (0, 0, 0));
    assert_eq!(disk.shared.gathered.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_variant_is_replaced_and_others_stay_and_the_newest_is_last() {
    let (folder, mut disk) = fresh(64 * MIB);
    disk.put("k\n", 1, meta(1), content(1, 10));
    disk.put("k\n", 2, meta(2), content(2, 100_000));
    disk.put("k\n", 1, meta(3), content(3, 300_000));
    disk.put("other\n", 1, meta(4), content(4, 10));
    disk.settled().await;
    for _ in 0..3 {
        let expected = [(meta(2), content(2, 100_000)), (meta(3), content(3, 300_000))];
        assert!(disk.all("k\n").await == expected);
        assert_eq!(disk.figures().objects, 3);
        disk.close().await;
        // With what is known of segments, and without it.
        files(folder.path(), "contents").iter().for_each(|file| fs::remove_file(file).unwrap());
        disk = open(folder.path(), 64 * MIB);
    }
}

#[tokio::test]
async fn many_variants_are_found_though_they_are_not_read_at_once() {
    let (_folder, disk) = fresh(64 * MIB);
    for number in 0..10 {
        disk.put("k\n", number, meta(number), content(number, 1000));
    }
    disk.settled().await;
    let expected: Vec<_> = (0..10).map(|number| (meta(number), content(number, 1000))).collect();
    assert!(reading::find(&disk.shared, "k\n", segment::From::Memory).is_none());
    assert!(disk.all("k\n").await == expected);
}

#[tokio::test]
async fn renewing_changes_meta_and_writes_no_body() {
    let (folder, mut disk) = fresh(64 * MIB);
    for (number, length) in [(1, 20_000), (2, 1_000_000)] {
        disk.keep(number, length).await;
        let before = taken(folder.path());
        for _ in 0..2 {
            let found = disk.find(&key(number)).await.remove(0);
            disk.renew(&found.body, &key(number), 0, &[], meta(9));
            // Twice by the same one.
            disk.renew(&found.body, &key(number), 0, &[], meta(10));
            disk.settled().await;
            let expected = [(meta(10), content(number, length))];
            assert!(disk.all(&key(number)).await == expected);
        }
        assert!(taken(folder.path()) - before < 2000);
        // Another body has come meanwhile: its meta stays.
        let found = disk.find(&key(number)).await.remove(0);
        disk.keep(number, 10).await;
        disk.renew(&found.body, &key(number), 0, &[], meta(11));
        disk.settled().await;
        assert!(disk.has(number, 10).await);
        disk.close().await;
        disk = open(folder.path(), 64 * MIB);
        assert!(disk.has(number, 10).await);
    }
}

#[tokio::test]
async fn renewing_an_empty_body_is_about_that_response_alone() {
    let (_folder, disk) = fresh(64 * MIB);
    disk.keep(1, 0).await;
    let found = disk.find(&key(1)).await.remove(0);
    disk.renew(&found.body, &key(1), 0, &[], meta(2));
    disk.settled().await;
    assert!(disk.all(&key(1)).await == [(meta(2), Bytes::new())]);
    let found = disk.find(&key(1)).await.remove(0);
    disk.put(&key(1), 0, meta(3), Bytes::new());
    disk.renew(&found.body, &key(1), 0, &[], meta(4));
    disk.settled().await;
    assert!(disk.all(&key(1)).await == [(meta(3), Bytes::new())]);
}

#[tokio::test]
async fn a_folder_is_one_stores_until_that_is_closed() {
    let (folder, disk) = fresh(MIB);
    let settings = DiskSettings { folder: folder.path().to_owned(), capacity: MIB };
    assert!(matches!(Disk::open(&settings), Err(OpenError::Locked(_))));
    disk.keep(1, 100).await;
    disk.put(&key(2), 0, meta(2), content(2, 100));
    disk.close().await;
    let next = Disk::open(&settings).unwrap();
    assert!(next.has(1, 100).await && next.has(2, 100).await);
    // Nobody comes in its way.
    assert!(disk.find(&key(1)).await.is_empty() && !disk.may_have(&key(1)));
    assert!(disk.begin(&key(3), 0, &[]).is_none());
    disk.purge(&Wiped::All, false);
    disk.close().await;
    assert!(next.has(1, 100).await);
}

#[tokio::test]
async fn the_thread_ends_with_the_last_clone() {
    let (folder, disk) = fresh(MIB);
    disk.keep(1, 100).await;
    let clone = disk.clone();
    drop(disk);
    assert!(clone.has(1, 100).await);
    drop(clone);
    assert!(open(folder.path(), MIB).has(1, 100).await);
}

#[tokio::test]
async fn a_folder_with_other_files_is_refused_and_other_files_in_ones_own_are_left() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("segment-00000000"), "not ours").unwrap();
    let settings = DiskSettings { folder: folder.path().to_owned(), capacity: MIB };
    assert!(matches!(Disk::open(&settings), Err(OpenError::Foreign(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let (folder, disk) = fresh(MIB);
    disk.keep(1, 100).await;
    disk.close().await;
    fs::write(folder.path().join("notes"), "mine").unwrap();
    let disk = open(folder.path(), MIB);
    assert!(disk.has(1, 100).await);
    assert_eq!(fs::read(folder.path().join("notes")).unwrap(), b"mine");
}

#[tokio::test]
async fn what_is_too_long_is_not_stored() {
    let (_folder, disk) = fresh(MIB);
    let mut writing = disk.begin("k\n", 0, &[]).unwrap();
    assert!((0..).any(|_| !writing.push(content(1, 50_000))));
    writing.finish(meta(1));
    let mut writing = disk.begin("k\n", 0, &[]).unwrap();
    assert!(writing.push(content(1, 50_000)));
    writing.finish(content(1, 200_000));
    disk.settled().await;
    assert!(!disk.may_have("k\n"));
    assert_eq!((disk.figures().failed, disk.figures().written), (2, 0));
}

#[tokio::test]
async fn where_the_disk_is_behind_nothing_is_begun_and_nothing_waits() {
    let (_folder, disk) = fresh(64 * MIB);
    let mut writing = disk.begin("k\n", 0, &[]).unwrap();
    disk.shared.queued.store(1 << 40, Ordering::Relaxed);
    assert!(disk.begin("k\n", 0, &[]).is_none());
    assert!(!writing.push(content(1, 300_000)));
    writing.finish(meta(1));
    assert_eq!((disk.figures().too_busy, disk.figures().failed), (2, 0));
    disk.shared.queued.store(0, Ordering::Relaxed);
    disk.keep(1, 10).await;
    assert!(disk.has(1, 10).await);
    assert_eq!(disk.shared.queued.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn many_that_come_slowly_take_no_more_than_was_said() {
    let (_folder, disk) = fresh(256 * MIB);
    let piece = content(0, 200_000);
    let mut all: Vec<_> =
        (0..400).map(|number| disk.begin(&key(number), 0, &[]).unwrap()).collect();
    for (number, writing) in all.iter_mut().enumerate() {
        assert!(writing.push(piece.clone()));
        assert!(disk.shared.gathered.load(Ordering::Relaxed) <= 33 * MIB);
        if number % 50 == 0 {
            disk.settled().await;
        }
    }
    for (number, writing) in (0..).zip(all) {
        writing.finish(meta(number));
        if number % 50 == 0 {
            disk.settled().await;
        }
    }
    disk.settled().await;
    for number in 0..400 {
        assert!(disk.all(&key(number)).await == [(meta(number), piece.clone())]);
    }
}
