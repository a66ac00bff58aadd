//! What is purged is not found any more.

use super::*;

const TAGS: [&str; 3] = ["even", "third", "fifth"];

fn tags(number: u64) -> Vec<Box<str>> {
    let tags = TAGS.iter().zip([2, 3, 5]).filter(|(_, every)| number.is_multiple_of(*every));
    tags.map(|(tag, _)| Box::from(*tag)).collect()
}

async fn filled() -> (TempDir, Disk) {
    let (folder, disk) = fresh(64 * MIB);
    for number in 0..60 {
        store(&disk, number);
    }
    disk.settled().await;
    (folder, disk)
}

fn length(number: u64) -> usize {
    if number.is_multiple_of(7) { 100_000 } else { 100 }
}

fn store(disk: &Disk, number: u64) {
    let mut writing = disk.begin(&key(number), 0, &tags(number)).unwrap();
    assert!(writing.push(content(number, length(number))));
    writing.finish(meta(number));
}

/// How everything is found: gone, condemned, or good.
async fn found(disk: &Disk) -> String {
    let mut all = String::new();
    for number in 0..60 {
        all.push(match &disk.find(&key(number)).await[..] {
            [] => '-',
            [found] if found.condemned => '?',
            _ => '+',
        });
    }
    all
}

fn expected(meant: impl Fn(u64) -> bool, as_what: char) -> String {
    (0..60).map(|number| if meant(number) { as_what } else { '+' }).collect()
}

async fn purged(what: Wiped<'_>, meant: impl Fn(u64) -> bool) {
    for soft in [false, true] {
        let (folder, mut disk) = filled().await;
        let expected = expected(&meant, if soft { '?' } else { '-' });
        disk.purge(&what, soft);
        assert_eq!(found(&disk).await, expected, "{what:?}");
        disk.close().await;
        for _ in 0..2 {
            disk = open(folder.path(), 64 * MIB);
            assert_eq!(found(&disk).await, expected, "{what:?}, opened again");
            disk.close().await;
            files(folder.path(), "contents").iter().for_each(|file| fs::remove_file(file).unwrap());
        }
        // What comes after it is not meant.
        disk = open(folder.path(), 64 * MIB);
        (0..60).for_each(|number| store(&disk, number));
        disk.settled().await;
        assert_eq!(found(&disk).await, "+".repeat(60), "{what:?}");
    }
}

#[tokio::test]
async fn a_key_is_purged() {
    purged(Wiped::Key(&key(17)), |number| number == 17).await;
}

#[tokio::test]
async fn a_prefix_of_urls_is_purged() {
    purged(Wiped::UrlPrefix("http://a.test/3/"), |number| number % 10 == 3).await;
    purged(Wiped::UrlPrefix("http://a.test/3/1"), |number| number == 13).await;
    purged(Wiped::UrlPrefix("site"), |_| false).await;
    purged(Wiped::UrlPrefix(""), |_| true).await;
}

#[tokio::test]
async fn a_tag_is_purged() {
    purged(Wiped::Tag("third"), |number| number.is_multiple_of(3)).await;
    purged(Wiped::Tag("thir"), |_| false).await;
}

#[tokio::test]
async fn all_is_purged_and_its_room_is_free() {
    purged(Wiped::All, |_| true).await;
    let (folder, disk) = filled().await;
    disk.purge(&Wiped::All, false);
    disk.settled().await;
    assert_eq!(disk.figures().objects, 0);
    assert!(taken(folder.path()) < 1000);
}

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_not_stored_after_it() {
    let (_folder, disk) = filled().await;
    let begin = || {
        let mut writing = disk.begin(&key(1), 0, &[]).unwrap();
        assert!(writing.push(content(1, 300_000)));
        writing
    };
    let (one, two, three) = (begin(), begin(), begin());
    disk.purge(&Wiped::Key(&key(1)), false);
    one.finish(meta(1));
    disk.settled().await;
    assert!(disk.find(&key(1)).await.is_empty());
    begin().finish(meta(1));
    disk.settled().await;
    assert!(disk.has(1, 300_000).await);
    disk.purge(&Wiped::UrlPrefix("http://"), false);
    two.finish(meta(1));
    disk.settled().await;
    assert!(!disk.has(1, 300_000).await);
    disk.purge(&Wiped::All, true);
    three.finish(meta(1));
    disk.settled().await;
    assert!(!disk.has(1, 300_000).await);
}

#[tokio::test]
async fn renewing_ends_a_soft_purge_and_no_later_one() {
    let (folder, disk) = filled().await;
    disk.purge(&Wiped::Tag("even"), true);
    let two = disk.find(&key(2)).await.remove(0);
    let four = disk.find(&key(4)).await.remove(0);
    let six = disk.find(&key(6)).await.remove(0);
    assert!(two.condemned && four.condemned);
    disk.renew(&two.body, &key(2), 0, &tags(2), meta(2));
    disk.settled().await;
    disk.purge(&Wiped::Key(&key(4)), true);
    disk.purge(&Wiped::Tag("third"), false);
    disk.renew(&four.body, &key(4), 0, &tags(4), meta(4));
    disk.renew(&six.body, &key(6), 0, &tags(6), meta(6));
    disk.settled().await;
    let as_expected = async |disk: &Disk| {
        assert!(!disk.find(&key(2)).await[0].condemned);
        assert!(disk.find(&key(4)).await[0].condemned);
        assert!(disk.find(&key(6)).await.is_empty());
    };
    as_expected(&disk).await;
    disk.close().await;
    as_expected(&open(folder.path(), 64 * MIB)).await;
}

#[tokio::test]
async fn what_is_condemned_stays_so_when_it_is_written_again() {
    let (_folder, disk) = fresh(4 * MIB);
    disk.keep(1, 5000).await;
    disk.purge(&Wiped::Key(&key(1)), true);
    for number in 1000..3000 {
        disk.keep(number, 5000).await;
        if number % 100 == 0 {
            assert!(disk.find(&key(1)).await[0].condemned);
        }
    }
}

#[tokio::test]
async fn many_purges_take_little_and_what_is_forgotten_of_them_is_purged() {
    let (folder, disk) = fresh(4 * MIB);
    let stored_first = 1;
    disk.keep(stored_first, 100).await;
    disk.purge(&Wiped::Key(&key(stored_first)), true);
    for number in 0..20_000 {
        disk.purge(&Wiped::Tag(&number.to_string()), false);
        if number % 100 == 0 {
            disk.settled().await;
            assert!(disk.shared.purges.size() < disk.shared.layout.capacity / 10);
        }
    }
    // Not one by one any more: too many is purged rather than too little.
    assert!(!disk.has(stored_first, 100).await);
    disk.keep(2, 100).await;
    assert!(disk.has(2, 100).await);
    disk.close().await;
    let disk = open(folder.path(), 4 * MIB);
    assert!(disk.has(2, 100).await && !disk.has(stored_first, 100).await);
    // With what they are about, purges go.
    for number in 1000..3000 {
        disk.keep(number, 5000).await;
    }
    assert!(disk.shared.purges.size() < 5000);
    assert!(disk.has(2999, 5000).await);
}

#[tokio::test]
async fn where_the_journal_is_damaged_or_gone_nothing_is_found() {
    let (folder, disk) = filled().await;
    disk.purge(&Wiped::Key(&key(1)), false);
    disk.purge(&Wiped::Tag("third"), false);
    disk.close().await;
    let journal = folder.path().join("purges");
    let good = fs::read(&journal).unwrap();
    let segment = files(folder.path(), "segment").remove(0);
    let stored = fs::read(&segment).unwrap();
    for at in 0..=good.len() {
        fs::write(&segment, &stored).unwrap();
        let mut bytes = good.clone();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 0x20,
            None => bytes.clear(),
        }
        fs::write(&journal, &bytes).unwrap();
        let disk = open(folder.path(), 64 * MIB);
        assert_eq!(disk.figures().objects, 0, "{at}");
        disk.close().await;
    }
}
