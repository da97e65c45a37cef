//! The rows of an index: records, filters and full text, in one SQLite file that is written once.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params, params_from_iter};

use crate::knowledge::bank::{Category, Record};
use crate::knowledge::store::words::worth_finding;
use crate::knowledge::store::{Collection, Filter, Result, StoreError, collection_name};

/// What BM25 multiplies a word by in the question itself, in its tags, and in criteria and probes. Chosen on
/// the tuning half of the labelled queries (`viva bank eval`).
const WEIGHTS: [f32; 3] = [1.0, 2.0, 0.5];

/// Searches that may run at once: each holds a core.
const CONNECTIONS_MAX: usize = 8;

/// What is in the file. The words are kept without their texts, which stand in the records.
const TABLES: &str = "
    CREATE TABLE questions (
        row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT, category TEXT NOT NULL,
        subcategory TEXT NOT NULL, industry TEXT, level TEXT NOT NULL, difficulty INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE collections (
        name TEXT NOT NULL, owner TEXT, category TEXT NOT NULL, first INTEGER NOT NULL, rows INTEGER NOT NULL
    ) STRICT;
    CREATE VIRTUAL TABLE words USING fts5 (
        question, tags, notes, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
    );";

/// The rows of one index, open for reading.
pub struct Rows {
    connections: Vec<Mutex<Connection>>,
    turn: AtomicUsize,
    ranges: Vec<Range>,
}

/// A collection and where its rows are.
#[derive(Debug, Clone)]
struct Range {
    collection: Collection,
    first: u32,
}

/// Sorts records as their rows are: each collection in one piece, nobody's first.
pub fn order(records: &mut [(Record, usize)]) {
    records.sort_by(|(a, _), (b, _)| (&a.owner, a.category, &a.id).cmp(&(&b.owner, b.category, &b.id)));
}

/// Writes the rows. Records must be in their [`order`].
pub fn write(path: &Path, records: &[Record]) -> Result<()> {
    let failed = |error: rusqlite::Error| StoreError::failed(format!("writing {}", path.display()), error);
    let mut db = Connection::open(path).map_err(failed)?;
    // One file, whole or not at all: the folder around it only gets its name when all of it is there.
    db.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL;").map_err(failed)?;
    fill(&mut db, records).map_err(failed)?;
    db.execute_batch("INSERT INTO words (words) VALUES ('optimize'); ANALYZE;").map_err(failed)?;
    db.close().map_err(|(_, error)| failed(error))
}

fn fill(db: &mut Connection, records: &[Record]) -> rusqlite::Result<()> {
    let all = db.transaction()?;
    all.execute_batch(TABLES)?;
    {
        let mut question = all.prepare("INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let mut words =
            all.prepare("INSERT INTO words (rowid, question, tags, notes) VALUES (?, ?, ?, ?)")?;
        for (row, record) in records.iter().enumerate() {
            let json = serde_json::to_string(record).expect("a record is plain data");
            let Record { id, owner, category, subcategory, industry, level, difficulty, .. } = record;
            let (category, level) = (category.name(), level.name());
            question.execute(params![
                row as i64,
                id,
                owner,
                category,
                subcategory,
                industry,
                level,
                difficulty,
                json
            ])?;
            let notes = [&record.criteria[..], &record.probes[..]].concat().join("\n");
            words.execute(params![row as i64, record.question, record.tags.join("\n"), notes])?;
        }
        let mut collection = all.prepare("INSERT INTO collections VALUES (?, ?, ?, ?, ?)")?;
        let mut first = 0;
        for same in records.chunk_by(|a, b| (&a.owner, a.category) == (&b.owner, b.category)) {
            let (owner, category) = (same[0].owner.as_deref(), same[0].category);
            let name = collection_name(owner, category);
            collection.execute(params![name, owner, category.name(), first as i64, same.len() as i64])?;
            first += same.len();
        }
    }
    all.commit()
}

impl Rows {
    /// Opens rows that were written. The error says what is wrong with the file.
    pub fn open(path: &Path, rows: usize) -> std::result::Result<Self, String> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        // Nobody writes it any more, so no lock is needed, nor a folder that can be written to.
        let uri = format!("file:{}?immutable=1", escaped(&path.display().to_string()));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let open = || -> rusqlite::Result<(Vec<Mutex<Connection>>, Vec<Range>, usize)> {
            let mut connections = Vec::new();
            for _ in 0..cores.clamp(2, CONNECTIONS_MAX) {
                connections.push(Mutex::new(Connection::open_with_flags(&uri, flags)?));
            }
            let db = held(&connections[0]);
            let mut statement =
                db.prepare("SELECT name, owner, category, first, rows FROM collections ORDER BY first")?;
            let read = |row: &rusqlite::Row| {
                let category: String = row.get(2)?;
                let category = category.parse::<Category>().map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
                })?;
                let collection = Collection {
                    name: row.get(0)?,
                    owner: row.get(1)?,
                    category,
                    rows: row.get::<_, u32>(4)? as usize,
                };
                Ok(Range { collection, first: row.get(3)? })
            };
            let ranges = statement.query_map([], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
            let counted: u32 = db.query_row("SELECT count(*) FROM questions", [], |row| row.get(0))?;
            drop(statement);
            drop(db);
            Ok((connections, ranges, counted as usize))
        };
        let (connections, ranges, counted) =
            open().map_err(|error| format!("its rows cannot be read: {error}"))?;
        if counted != rows {
            return Err(format!("it has {counted} rows for {rows} vectors"));
        }
        Ok(Self { connections, turn: AtomicUsize::new(0), ranges })
    }

    /// The collections of one owner.
    pub fn collections(&self, owner: Option<&str>) -> Vec<Collection> {
        self.owned(owner).map(|range| range.collection.clone()).collect()
    }

    fn owned(&self, owner: Option<&str>) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(move |range| range.collection.owner.as_deref() == owner)
    }

    /// The rows that may be let through by owner and category: all others are never looked at.
    fn range(&self, filter: &Filter) -> std::ops::Range<u32> {
        let admitted = self
            .owned(filter.owner.as_deref())
            .filter(|range| filter.category.is_none_or(|category| category == range.collection.category));
        // An owner's collections lie side by side.
        admitted.fold(0..0, |all, range| {
            let end = range.first + range.collection.rows as u32;
            if all.is_empty() { range.first..end } else { all.start..end }
        })
    }

    /// A connection nobody uses, or the next one's turn.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        for i in 0..self.connections.len() {
            match self.connections[(start + i) % self.connections.len()].try_lock() {
                Ok(free) => return free,
                Err(TryLockError::Poisoned(free)) => return free.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        held(&self.connections[start % self.connections.len()])
    }

    /// The rows a filter lets through, for a search by meaning.
    pub fn admitted(&self, filter: &Filter) -> Result<Vec<u32>> {
        let range = self.range(filter);
        let (conditions, values) = conditions(filter);
        if conditions.is_empty() {
            return Ok(range.collect());
        }
        let sql = format!("SELECT row FROM questions WHERE row >= ? AND row < ?{conditions} ORDER BY row");
        self.rows_of(&sql, [range_values(&range), values].concat())
    }

    /// The rows whose words fit a text best, best first. None where no word of it is worth looking for.
    pub fn by_words(&self, text: &str, filter: &Filter, n: usize) -> Result<Vec<u32>> {
        let words = worth_finding(text);
        let range = self.range(filter);
        if words.is_empty() || range.is_empty() {
            return Ok(Vec::new());
        }
        // Letters and digits in quotes: nothing of a text is read as a query's syntax.
        let wanted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let (conditions, values) = conditions(filter);
        let [question, tags, notes] = WEIGHTS;
        // The plus keeps SQLite from looking for the words anew in every row that is let through: a hundred times as slow.
        let within = match conditions.as_str() {
            "" => String::new(),
            some => format!(" AND +rowid IN (SELECT row FROM questions WHERE row >= ? AND row < ?{some})"),
        };
        let sql = format!(
            "SELECT rowid FROM words WHERE words MATCH ? AND rowid >= ? AND rowid < ?{within} \
             ORDER BY bm25(words, {question:?}, {tags:?}, {notes:?}), rowid LIMIT ?"
        );
        let mut all = vec![Value::Text(wanted.join(" OR "))];
        all.extend(range_values(&range));
        if !within.is_empty() {
            all.extend(range_values(&range));
            all.extend(values);
        }
        all.push(Value::Integer(n as i64));
        self.rows_of(&sql, all)
    }

    fn rows_of(&self, sql: &str, values: Vec<Value>) -> Result<Vec<u32>> {
        let db = self.connection();
        let run = || -> rusqlite::Result<Vec<u32>> {
            let mut statement = db.prepare_cached(sql)?;
            statement.query_map(params_from_iter(values), |row| row.get(0))?.collect()
        };
        run().map_err(unreadable)
    }

    /// The records of these rows, in their order.
    pub fn records(&self, rows: &[u32]) -> Result<Vec<Record>> {
        let db = self.connection();
        let run = || -> rusqlite::Result<Vec<String>> {
            let mut statement = db.prepare_cached("SELECT record FROM questions WHERE row = ?")?;
            rows.iter().map(|row| statement.query_row([row], |row| row.get(0))).collect()
        };
        run().map_err(unreadable)?.iter().map(|json| parse(json)).collect()
    }

    /// One owner's records by id.
    pub fn get(&self, owner: Option<&str>, ids: &[String]) -> Result<Vec<Record>> {
        let db = self.connection();
        let run = || -> rusqlite::Result<Vec<String>> {
            let mut statement =
                db.prepare_cached("SELECT record FROM questions WHERE id = ? AND owner IS ?")?;
            let mut found = Vec::new();
            for id in ids {
                let mut rows = statement.query(params![id, owner])?;
                while let Some(row) = rows.next()? {
                    found.push(row.get(0)?);
                }
            }
            Ok(found)
        };
        run().map_err(unreadable)?.iter().map(|json| parse(json)).collect()
    }

    /// How many records a filter lets through, and some of them, by id.
    pub fn browse(&self, filter: &Filter, skip: usize, n: usize) -> Result<(usize, Vec<Record>)> {
        let range = self.range(filter);
        let (conditions, values) = conditions(filter);
        let values = [range_values(&range), values].concat();
        let admitted = format!("FROM questions WHERE row >= ? AND row < ?{conditions}");
        let db = self.connection();
        let run = || -> rusqlite::Result<(u32, Vec<String>)> {
            let total = db
                .prepare_cached(&format!("SELECT count(*) {admitted}"))?
                .query_row(params_from_iter(values.clone()), |row| row.get(0))?;
            let mut statement =
                db.prepare_cached(&format!("SELECT record {admitted} ORDER BY id LIMIT ? OFFSET ?"))?;
            let (n, skip) =
                (Value::Integer(n as i64), Value::Integer(i64::try_from(skip).unwrap_or(i64::MAX)));
            let page = params_from_iter(values.into_iter().chain([n, skip]));
            let records = statement.query_map(page, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok((total, records))
        };
        let (total, records) = run().map_err(unreadable)?;
        Ok((total as usize, records.iter().map(|json| parse(json)).collect::<Result<_>>()?))
    }

    /// Fails when a filter names a field or an industry that no question has: it is a mistake, and an empty
    /// answer would hide it.
    pub fn check_names(&self, filter: &Filter) -> Result<()> {
        let named = [("subcategory", &filter.subcategory), ("industry", &filter.industry)];
        for (field, name) in named {
            let Some(name) = name else { continue };
            let sql = format!("SELECT EXISTS (SELECT 1 FROM questions WHERE {field} = ? AND owner IS ?)");
            let known: bool = self
                .connection()
                .prepare_cached(&sql)
                .and_then(|mut s| s.query_row(params![name, filter.owner], |row| row.get(0)))
                .map_err(unreadable)?;
            if !known {
                return Err(StoreError::Unknown { field, found: name.chars().take(60).collect() });
            }
        }
        Ok(())
    }
}

fn held(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a filter demands beyond owner and category, as SQL with a value for each question mark.
fn conditions(filter: &Filter) -> (String, Vec<Value>) {
    let (mut sql, mut values) = (String::new(), Vec::new());
    let mut demand = |condition: &str, more: Vec<Value>| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.extend(more);
    };
    let text = |text: &str| Value::Text(text.to_owned());
    if let Some(name) = &filter.subcategory {
        demand("subcategory = ?", vec![text(name)]);
    }
    if let Some(name) = &filter.industry {
        demand("(industry = ? OR industry IS NULL)", vec![text(name)]);
    }
    if !filter.levels.is_empty() {
        let marks = vec!["?"; filter.levels.len()].join(", ");
        demand(
            &format!("level IN ({marks})"),
            filter.levels.iter().map(|level| text(level.name())).collect(),
        );
    }
    if filter.difficulty != (1..=5) {
        let (start, end) = (i64::from(*filter.difficulty.start()), i64::from(*filter.difficulty.end()));
        demand("difficulty BETWEEN ? AND ?", vec![Value::Integer(start), Value::Integer(end)]);
    }
    if !filter.exclude.is_empty() {
        let ids = serde_json::to_string(&filter.exclude).expect("a list of texts is plain data");
        demand("id NOT IN (SELECT value FROM json_each(?))", vec![Value::Text(ids)]);
    }
    (sql, values)
}

fn range_values(range: &std::ops::Range<u32>) -> Vec<Value> {
    vec![Value::Integer(i64::from(range.start)), Value::Integer(i64::from(range.end))]
}

fn parse(json: &str) -> Result<Record> {
    serde_json::from_str(json)
        .map_err(|error| StoreError::failed("a record of the index cannot be read", error))
}

fn unreadable(error: rusqlite::Error) -> StoreError {
    StoreError::failed("the index cannot be read (viva bank index --rebuild makes it anew)", error)
}

/// A path as part of a URI.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}
