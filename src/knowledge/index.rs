//! The embedded store: an index on disk, opened read-only.
//!
//! Below its folder every embedder has one of its own, with a folder for each edition (`rows.sqlite`,
//! `vectors`) and the file `current`, which names the one in use. An edition is written into a folder that
//! nobody knows, gets its name when it is whole, and is in use with the renaming of `current`; the edition
//! before stays beside it. Whatever goes wrong on the way, `current` names a good one.

mod ffi;
pub mod matrix;
mod sqlite;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;

use super::bank::Record;
use super::store::fuse::fuse;
use super::store::{
    Collection, Edition, Filter, Hit, Page, RESULTS_MAX, Ranking, Result, Search, StoreError, VectorStore,
    check_filter,
};
use matrix::Matrix;
use sqlite::Rows;

/// The folder of indexes, within the knowledge folder.
const FOLDER: &str = "index";

/// The file that names the edition in use.
const CURRENT: &str = "current";

/// How the folder of an edition is named while it is written.
const FRESH: &str = ".new-";

/// Editions kept: the one in use and the one before, should the first turn out to be damaged.
const KEPT: usize = 2;

/// The embedded store.
pub struct Index {
    folder: PathBuf,
    embedder: String,
    open: Arc<ArcSwapOption<Opened>>,
}

/// An edition in use.
struct Opened {
    rows: Rows,
    vectors: Matrix,
    edition: Edition,
}

impl Index {
    /// The index of an embedder below the knowledge folder. Where the newest edition is damaged, the one
    /// before is used, and the log says so; where none is usable the error says what is wrong. An index that
    /// was never built is no error: [`VectorStore::edition`] says so.
    pub fn open(knowledge: &Path, embedder: &str) -> Result<Self> {
        let folder = knowledge.join(FOLDER).join(embedder);
        let mut first_error = None;
        let mut usable = None;
        for name in editions(&folder) {
            match open_edition(&folder.join(&name), embedder) {
                Ok(opened) => {
                    usable = Some(Arc::new(opened));
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "this edition of the index is passed over");
                    first_error.get_or_insert(error);
                }
            }
        }
        if let (None, Some(error)) = (&usable, first_error) {
            return Err(error);
        }
        Ok(Self { folder, embedder: embedder.to_owned(), open: Arc::new(ArcSwapOption::new(usable)) })
    }

    /// The index of an embedder, as if it had never been built; the way out of an index that is damaged.
    pub fn blank(knowledge: &Path, embedder: &str) -> Self {
        let folder = knowledge.join(FOLDER).join(embedder);
        Self { folder, embedder: embedder.to_owned(), open: Arc::default() }
    }

    fn opened(&self) -> Result<Arc<Opened>> {
        self.open.load_full().ok_or_else(|| StoreError::NoIndex(self.folder.display().to_string()))
    }

    /// Runs a search where it may take its time.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Opened) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let opened = self.opened()?;
        let done = tokio::task::spawn_blocking(move || work(&opened)).await;
        done.map_err(|error| StoreError::failed("the search did not end", error))?
    }
}

/// The editions of a folder: the one in use, then others from the newest on.
fn editions(folder: &Path) -> Vec<String> {
    let current = fs::read_to_string(folder.join(CURRENT)).map(|name| name.trim().to_owned()).ok();
    let mut others: Vec<(std::time::SystemTime, String)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
            Some((entry.metadata().and_then(|meta| meta.modified()).ok()?, name))
        })
        .filter(|(_, name)| Some(name) != current.as_ref())
        .collect();
    others.sort();
    // The name comes from a file: it must not lead elsewhere.
    let named = current.filter(|name| !name.is_empty() && Path::new(name).components().count() == 1);
    named.into_iter().chain(others.into_iter().rev().map(|(_, name)| name)).collect()
}

fn open_edition(path: &Path, embedder: &str) -> Result<Opened> {
    let damaged = |what| StoreError::Damaged { place: path.display().to_string(), what };
    let vectors = Matrix::open(&path.join("vectors")).map_err(damaged)?;
    let head = vectors.head();
    if head.embedder != embedder {
        return Err(StoreError::OtherEmbedder {
            place: path.display().to_string(),
            found: head.embedder.clone(),
            wanted: embedder.to_owned(),
        });
    }
    let rows = Rows::open(&path.join("rows.sqlite"), head.rows).map_err(damaged)?;
    let edition = Edition {
        embedder: head.embedder.clone(),
        dimensions: head.dimensions,
        content: head.content,
        rows: head.rows,
    };
    Ok(Opened { rows, vectors, edition })
}

/// Writes an edition and puts it in use.
fn publish(
    folder: &Path,
    edition: &Edition,
    records: Vec<Record>,
    vectors: &[f32],
    views: usize,
) -> Result<Opened> {
    let failed = |what: &str, path: &Path, error: std::io::Error| {
        StoreError::failed(format!("{what} {}", path.display()), error)
    };
    fs::create_dir_all(folder).map_err(|error| failed("making the folder", folder, error))?;
    let lock =
        File::create(folder.join(".lock")).map_err(|error| failed("making a lock in", folder, error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(folder.display().to_string())),
        Err(TryLockError::Error(error)) => return Err(failed("locking", folder, error)),
    }
    sweep(folder);
    // In the folder itself, since a renaming cannot cross disks. It vanishes when something goes wrong.
    let fresh = tempfile::Builder::new().prefix(FRESH).tempdir_in(folder);
    let fresh = fresh.map_err(|error| failed("making a folder in", folder, error))?;
    let row = edition.dimensions * views;
    let mut ordered: Vec<(Record, usize)> = records.into_iter().zip(0..).collect();
    sqlite::order(&mut ordered);
    let mut values = Vec::with_capacity(vectors.len());
    for (_, at) in &ordered {
        values.extend_from_slice(&vectors[at * row..(at + 1) * row]);
    }
    let records: Vec<Record> = ordered.into_iter().map(|(record, _)| record).collect();
    sqlite::write(&fresh.path().join("rows.sqlite"), &records)?;
    let path = fresh.path().join("vectors");
    Matrix::write(&path, &edition.embedder, &edition.content, (edition.dimensions, views), &values)
        .map_err(|error| failed("writing", &path, error))?;
    // Read as it will be: what cannot be opened must not be put in use.
    drop(open_edition(fresh.path(), &edition.embedder)?);
    let name = unused_name(folder, edition);
    let path = folder.join(&name);
    fs::rename(fresh.path(), &path).map_err(|error| failed("naming", &path, error))?;
    let opened = open_edition(&path, &edition.embedder)?;
    let note = folder.join(".current");
    fs::write(&note, &name).map_err(|error| failed("writing", &note, error))?;
    fs::rename(&note, folder.join(CURRENT)).map_err(|error| failed("naming", &note, error))?;
    for old in editions(folder).iter().skip(KEPT) {
        // What cannot be removed only takes room.
        fs::remove_dir_all(folder.join(old)).ok();
    }
    Ok(opened)
}

/// Removes what a build left that was killed. Called under the lock: nobody is building.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(FRESH) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn unused_name(folder: &Path, edition: &Edition) -> String {
    let short = edition.short();
    (1..).map(|n| format!("{short}-{n}")).find(|name| !folder.join(name).exists()).expect("names do not end")
}

impl Opened {
    fn search(&self, search: &Search) -> Result<Vec<Hit>> {
        search.check(&self.edition)?;
        self.rows.check_names(&search.filter)?;
        let depth = search.depth();
        let dense: Vec<u32> = match search.ranking {
            Ranking::Text => Vec::new(),
            _ => {
                let admitted = self.rows.admitted(&search.filter)?;
                let nearest = self.vectors.nearest(&search.vector, admitted.into_iter(), depth);
                nearest.into_iter().map(|(row, _)| row).collect()
            }
        };
        let text = match search.ranking {
            Ranking::Dense => Vec::new(),
            _ => self.rows.by_words(&search.text, &search.filter, depth)?,
        };
        let mut found = fuse(&dense, &text, search.words_weight());
        found.truncate(search.n);
        let rows: Vec<u32> = found.iter().map(|fused| fused.item).collect();
        let records = self.rows.records(&rows)?;
        let hits = found.into_iter().zip(records).map(|(fused, record)| {
            let near = self.vectors.nearness(&search.vector, fused.item as usize).unwrap_or_default();
            let (dense_rank, text_rank) = (fused.dense_rank, fused.text_rank);
            Hit { record, score: fused.score, distance: 1.0 - near, dense_rank, text_rank }
        });
        Ok(hits.collect())
    }
}

#[async_trait]
impl VectorStore for Index {
    async fn edition(&self) -> Result<Option<Edition>> {
        Ok(self.open.load().as_ref().map(|opened| opened.edition.clone()))
    }

    async fn publish(&self, edition: Edition, records: Vec<Record>, vectors: Vec<f32>) -> Result<()> {
        if edition.embedder != self.embedder {
            return Err(StoreError::OtherEmbedder {
                place: self.folder.display().to_string(),
                found: edition.embedder,
                wanted: self.embedder.clone(),
            });
        }
        let views = edition.views(&records, &vectors)?;
        let folder = self.folder.clone();
        let done =
            tokio::task::spawn_blocking(move || publish(&folder, &edition, records, &vectors, views)).await;
        let opened = done.map_err(|error| StoreError::failed("the index was not written", error))??;
        self.open.store(Some(Arc::new(opened)));
        Ok(())
    }

    async fn search(&self, search: Search) -> Result<Vec<Hit>> {
        self.run(move |opened| opened.search(&search)).await
    }

    async fn browse(&self, filter: Filter, skip: usize, n: usize) -> Result<Page> {
        check_filter(&filter)?;
        self.run(move |opened| {
            opened.rows.check_names(&filter)?;
            let (total, records) = opened.rows.browse(&filter, skip, n.min(RESULTS_MAX))?;
            Ok(Page { total, records })
        })
        .await
    }

    async fn get(&self, owner: Option<&str>, ids: Vec<String>) -> Result<Vec<Record>> {
        let owner = owner.map(str::to_owned);
        self.run(move |opened| opened.rows.get(owner.as_deref(), &ids)).await
    }

    async fn collections(&self, owner: Option<&str>) -> Result<Vec<Collection>> {
        Ok(self.opened()?.rows.collections(owner))
    }
}
