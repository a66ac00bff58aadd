//! The budget, and what goes for it.

use super::*;

#[tokio::test]
async fn the_budget_is_never_passed() {
    let (folder, mut disk) = fresh(4 * MIB);
    let lengths = |number: u64| [100, 3000, 40_000, 90_000, 500_000][number as usize % 5];
    for number in 0..300 {
        disk.keep(number, lengths(number)).await;
        disk.purge(&Wiped::Tag(&number.to_string()), number % 2 == 0);
        assert!(taken(folder.path()) <= 4 * MIB, "{number}");
        assert!(disk.figures().bytes <= 4 * MIB);
        if number % 3 == 0 {
            disk.has(number / 2, lengths(number / 2)).await;
        }
        if number % 70 == 0 {
            disk.close().await;
            disk = open(folder.path(), 4 * MIB);
        }
    }
    assert!(taken(folder.path()) > 3 * MIB);
    assert!(disk.has(299, lengths(299)).await && disk.has(295, lengths(295)).await);
    assert_eq!(disk.figures().failed, 0);
    let there =
        (0..300).filter(|number| disk.shared.index.contains(disk.shared.hash(&key(*number))));
    assert_eq!(there.count() as u64, disk.figures().objects);
}

#[tokio::test]
async fn less_room_is_kept_to_after_opening_again() {
    let (folder, disk) = fresh(8 * MIB);
    for number in 0..100 {
        disk.keep(number, 70_000).await;
    }
    disk.close().await;
    let disk = open(folder.path(), 2 * MIB);
    assert!(taken(folder.path()) <= 2 * MIB && disk.has(99, 70_000).await);
    for number in 100..150 {
        disk.keep(number, 70_000).await;
        assert!(taken(folder.path()) <= 2 * MIB);
    }
}

#[tokio::test]
async fn what_is_asked_for_stays_and_what_is_not_goes() {
    let (folder, disk) = fresh(4 * MIB);
    for number in 0..20 {
        disk.keep(number, 5000).await;
        disk.keep(100 + number, 5000).await;
        disk.keep(200 + number, 5000).await;
        disk.keep(300 + number, 5000).await;
        disk.keep(400 + number, 5000).await;
        disk.keep(500 + number, 5000).await;
    }
    for number in 1000..4000 {
        disk.put(&key(number), 0, meta(number), content(number, 5000));
        if number % 50 == 0 {
            disk.settled().await;
            for hot in 0..20 {
                assert!(disk.has(hot, 5000).await, "{hot} at {number}");
            }
        }
    }
    disk.settled().await;
    for cold in 100..120 {
        assert!(!disk.has(cold, 5000).await);
    }
    disk.close().await;
    let disk = open(folder.path(), 4 * MIB);
    for hot in 0..20 {
        assert!(disk.has(hot, 5000).await);
    }
}

#[tokio::test]
async fn what_is_renewed_keeps_its_body_when_that_has_to_go() {
    let (_folder, disk) = fresh(4 * MIB);
    disk.keep(1, 5000).await;
    for number in 1000..3000 {
        disk.keep(number, 5000).await;
        if number % 200 == 0 {
            let found = disk.find(&key(1)).await.remove(0);
            disk.renew(&found.body, &key(1), 0, &[], meta(1));
            disk.settled().await;
        }
    }
    assert!(disk.has(1, 5000).await);
}

#[tokio::test]
async fn who_reads_what_goes_reads_to_its_end_and_keeps_its_room() {
    let (folder, disk) = fresh(4 * MIB);
    disk.keep(1, 600_000).await;
    let found = disk.find(&key(1)).await.remove(0);
    let mut reading = Box::pin(found.body.read(0..600_000));
    let mut read = reading.next().await.unwrap().unwrap().to_vec();
    drop(found);
    for number in 1000..2000 {
        disk.put(&key(number), 0, meta(number), content(number, 5000));
        if number % 20 == 0 {
            disk.settled().await;
            assert!(disk.figures().bytes <= 4 * MIB);
        }
    }
    disk.settled().await;
    assert!(!disk.has(1, 600_000).await);
    assert!(disk.figures().bytes > taken(folder.path()), "what is read has no room of its own");
    while let Some(piece) = reading.next().await {
        read.extend(piece.unwrap());
    }
    assert!(read == content(1, 600_000));
    drop(reading);
    // Reading ahead may still be about to end.
    while disk.figures().bytes != taken(folder.path()) {
        disk.settled().await;
    }
}

#[tokio::test]
async fn who_reads_slowly_does_not_empty_the_store() {
    let (_folder, disk) = fresh(4 * MIB);
    let mut kept = Vec::new();
    for number in 0..300 {
        if let Some(mut writing) = disk.begin(&key(number), 0, &[]) {
            writing.push(content(number, 90_000));
            writing.finish(meta(number));
        }
        disk.settled().await;
        kept.extend(disk.find(&key(number)).await);
        assert!(disk.figures().bytes <= 4 * MIB);
    }
    let figures = disk.figures();
    assert!(figures.failed > 0, "everything is kept");
    assert!(figures.objects * 90_000 > MIB);
    kept.clear();
    disk.settled().await;
    disk.keep(5000, 5000).await;
    assert!(disk.has(5000, 5000).await);
}

#[tokio::test]
async fn a_store_with_no_room_at_all_stores_nothing() {
    for capacity in [0, 1, 10_000, 100_000] {
        let (_folder, disk) = fresh(capacity);
        if let Some(mut writing) = disk.begin("k\n", 0, &[]) {
            writing.push(content(1, 50_000));
            writing.finish(meta(1));
        }
        disk.settled().await;
        assert!(!disk.may_have("k\n"));
    }
}
