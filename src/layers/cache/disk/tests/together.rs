//! Everything at once: tasks that store, find, renew and purge while segments come and go
//! and the store is opened again. Nothing that was seen replaced or purged is seen again.

use std::hash::{BuildHasher as _, RandomState};

use super::*;

const KEYS: usize = 12;

const CAPACITY: u64 = 4 * MIB;

/// What a task knows of a key that nobody else writes.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The number of the next version.
    next: u64,
    /// Earlier ones must not be found.
    least: u64,
}

struct Task {
    number: u64,
    keys: Vec<Known>,
    state: u64,
}

impl Task {
    fn draw(&mut self, among: u64) -> u64 {
        self.state = content(self.state, 8).as_ref().try_into().map(u64::from_le_bytes).unwrap();
        (self.state >> 20) % among
    }

    fn key(&self, at: usize) -> String {
        format!("task\t{}\nhttp://{}.test/{at}", self.number, self.number)
    }

    fn body(&self, at: usize, version: u64) -> Bytes {
        let length = [0, 700, 20_000, 70_000, 200_000][(version as usize + at) % 5];
        content(self.number << 40 | (at as u64) << 32 | version, length)
    }

    fn tag(&self, at: usize) -> Box<str> {
        format!("{}-{at}", self.number).into()
    }

    async fn step(&mut self, disk: &Disk) {
        let at = self.draw(KEYS as u64) as usize;
        let (key, tags) = (self.key(at), [self.tag(at)]);
        match self.draw(20) {
            0..8 => {
                let version = self.keys[at].next;
                self.keys[at].next += 1;
                if let Some(mut writing) = disk.begin(&key, 0, &tags)
                    && writing.push(self.body(at, version))
                {
                    tokio::task::yield_now().await;
                    writing.finish(version.to_string().into());
                }
            }
            draw @ 8..17 => {
                for found in disk.find(&key).await {
                    let version = std::str::from_utf8(&found.meta).unwrap().parse().unwrap();
                    let Known { next, least } = self.keys[at];
                    assert!((least..next).contains(&version), "{least} {version} {next}");
                    let body = found.body.whole().await.unwrap();
                    assert!(body == self.body(at, version));
                    self.keys[at].least = version;
                    if draw == 8 {
                        disk.renew(&found.body, &key, 0, &tags, found.meta);
                    }
                }
            }
            17 => self.purged(disk, at, &Wiped::Key(&key)),
            18 => self.purged(disk, at, &Wiped::Tag(&tags[0])),
            _ => disk.purge(&Wiped::Tag(&tags[0]), true),
        }
    }

    fn purged(&mut self, disk: &Disk, at: usize, what: &Wiped<'_>) {
        disk.purge(what, false);
        self.keys[at].least = self.keys[at].next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_at_once_nothing_old_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let task = |number| Task { number, keys: vec![Known::default(); KEYS], state: seed ^ number };
    let mut tasks: Vec<Task> = (0..4).map(task).collect();
    for _ in 0..6 {
        let disk = open(folder.path(), CAPACITY);
        let running = tasks.into_iter().map(|mut task| {
            let disk = disk.clone();
            tokio::spawn(async move {
                for _ in 0..400 {
                    task.step(&disk).await;
                }
                task
            })
        });
        let running: Vec<_> = running.collect();
        tasks = Vec::new();
        for task in running {
            tasks.push(task.await.unwrap());
        }
        disk.close().await;
        assert!(taken(folder.path()) <= CAPACITY);
        let figures = disk.figures();
        assert!(figures.written > 100, "{figures:?}");
    }
}
