//! The store for many nodes: PostgreSQL with pgvector. All nodes of one embedder share one edition.
//!
//! Search is exact, as in the embedded store: an approximate index finds too little once a filter has taken
//! most of the rows away. A publication is one transaction, and a search is one statement, so that nobody ever
//! sees half an edition. The connection is not encrypted: use a socket, or a network of your own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use super::bank::{Category, Record, SCHEMA};
use super::store::fuse::fuse;
use super::store::words::worth_finding;
use super::store::{
    Collection, Edition, Filter, Hit, Page, RESULTS_MAX, Ranking, Result, Search, StoreError, VectorStore,
    check_filter, collection_name,
};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long one statement may take: exact search goes through 100,000 vectors in a fifth of a second, and a question
/// has four.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a publication may take: 100,000 rows take a minute.
const PUBLISH_WITHIN: Duration = Duration::from_secs(600);

/// Rows of one insertion: their vectors as text are some 3 MB.
const ROWS_AT_ONCE: usize = 64;

/// The key of the lock that lets one node publish at a time: "viva" in ASCII.
const LOCK: i64 = 0x7669_7661;

/// What is in the database. The vectors' length is free, since it differs between embedders. The names end in the
/// version of the form, so that nodes of the version before keep what they read until they are gone.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS viva_editions_2 (
        embedder text PRIMARY KEY, dimensions integer NOT NULL, content bytea NOT NULL, rows integer NOT NULL,
        schema integer NOT NULL, published timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS viva_questions_2 (
        embedder text NOT NULL, id text NOT NULL, owner text, category text NOT NULL, subcategory text NOT NULL,
        industry text, level text NOT NULL, difficulty smallint NOT NULL, record text NOT NULL,
        views vector[] NOT NULL, words tsvector NOT NULL, PRIMARY KEY (embedder, id)
    );
    CREATE INDEX IF NOT EXISTS viva_questions_2_words ON viva_questions_2 USING gin (words);";

/// A row of the table, from arrays of its columns.
const INSERT: &str = "
    INSERT INTO viva_questions_2
    SELECT $1, id, owner, category, subcategory, industry, level, difficulty, record, views::vector[],
           setweight(to_tsvector('english', question), 'A') || setweight(to_tsvector('english', tags), 'A')
           || setweight(to_tsvector('english', notes), 'C')
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::smallint[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
      AS new (id, owner, category, subcategory, industry, level, difficulty, record, views, question, tags,
              notes)";

/// What a filter lets through; its values are those of [`Wanted`].
const ADMITTED: &str = "
    embedder = $1 AND owner IS NOT DISTINCT FROM $2 AND ($3::text IS NULL OR category = $3)
    AND ($4::text IS NULL OR subcategory = $4) AND ($5::text IS NULL OR industry = $5 OR industry IS NULL)
    AND (cardinality($6::text[]) = 0 OR level = ANY ($6)) AND difficulty BETWEEN $7 AND $8 AND id <> ALL ($9)";

/// How far the nearest view of a question is from a query. `<#>` is the product with its sign turned.
const NEAREST: &str = "(SELECT 1 + min(view <#> $10::text::vector) FROM unnest(views) AS view)";

/// The store.
pub struct PgVector {
    config: tokio_postgres::Config,
    embedder: String,
    client: Mutex<Option<Arc<Client>>>,
}

/// A filter as values of a statement.
struct Wanted<'a> {
    owner: &'a Option<String>,
    category: Option<&'static str>,
    subcategory: &'a Option<String>,
    industry: &'a Option<String>,
    levels: Vec<&'static str>,
    easiest: i16,
    hardest: i16,
    exclude: &'a [String],
}

impl<'a> Wanted<'a> {
    fn of(filter: &'a Filter) -> Self {
        Self {
            owner: &filter.owner,
            category: filter.category.map(Category::name),
            subcategory: &filter.subcategory,
            industry: &filter.industry,
            levels: filter.levels.iter().map(|level| level.name()).collect(),
            easiest: i16::from(*filter.difficulty.start()),
            hardest: i16::from(*filter.difficulty.end()),
            exclude: &filter.exclude,
        }
    }

    fn values<'b>(&'b self, embedder: &'b String) -> Vec<&'b (dyn ToSql + Sync)> {
        vec![
            embedder,
            self.owner,
            &self.category,
            self.subcategory,
            self.industry,
            &self.levels,
            &self.easiest,
            &self.hardest,
            &self.exclude,
        ]
    }
}

impl PgVector {
    /// The store behind `url` (`postgres://user:password@host/database`, or `host=/run/postgresql ...`) for one
    /// embedder. Connects, and makes what is missing.
    pub async fn open(url: &str, embedder: &str) -> Result<Self> {
        let mut config: tokio_postgres::Config = url.parse().map_err(|error| {
            // The error says what is wrong with it; the address itself may hold a password.
            StoreError::Asked(format!("knowledge.postgres is no address of a database: {error}"))
        })?;
        config.connect_timeout(CONNECT_WITHIN);
        let store = Self { config, embedder: embedder.to_owned(), client: Mutex::default() };
        let client = store.client().await?;
        let made = limited(client.batch_execute("CREATE EXTENSION IF NOT EXISTS vector")).await;
        made.map_err(|error| match error {
            StoreError::Failed { why, .. } => StoreError::failed(
                "the database has no pgvector; install it (Debian: postgresql-15-pgvector) and let a superuser run \
                 CREATE EXTENSION vector in this database",
                why,
            ),
            other => other,
        })?;
        limited(client.batch_execute(TABLES)).await?;
        Ok(store)
    }

    async fn connect(&self) -> Result<Client> {
        let connecting = tokio::time::timeout(CONNECT_WITHIN, self.config.connect(NoTls)).await;
        let what = "the database of knowledge.postgres cannot be reached";
        let (client, connection) = connecting
            .map_err(|_| StoreError::failed(what, format!("no answer in {} s", CONNECT_WITHIN.as_secs())))?
            .map_err(|error| StoreError::failed(what, told(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = %told(&error), "a connection to the database ended");
            }
        });
        Ok(client)
    }

    /// The connection all searches share; a new one where the last has ended.
    async fn client(&self) -> Result<Arc<Client>> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.connect().await?);
        *held = Some(Arc::clone(&client));
        Ok(client)
    }

    async fn check_names(&self, client: &Client, filter: &Filter) -> Result<()> {
        let named = [("subcategory", &filter.subcategory), ("industry", &filter.industry)];
        for (field, name) in named {
            let Some(name) = name else { continue };
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM viva_questions_2 WHERE embedder = $1 AND owner IS NOT DISTINCT FROM $2 \
                 AND {field} = $3)"
            );
            let row = limited(client.query_one(&sql, &[&self.embedder, &filter.owner, name])).await?;
            if !row.get::<_, bool>(0) {
                return Err(StoreError::Unknown { field, found: name.chars().take(60).collect() });
            }
        }
        Ok(())
    }

    async fn stored(&self, client: &Client) -> Result<Edition> {
        let sql = "SELECT dimensions, content, rows, schema FROM viva_editions_2 WHERE embedder = $1";
        let row = limited(client.query_opt(sql, &[&self.embedder])).await?;
        let row = row.ok_or_else(|| StoreError::NoIndex("the database of knowledge.postgres".into()))?;
        let damaged = |what: String| StoreError::Damaged { place: "in the database".into(), what };
        let content: &[u8] = row.get(1);
        let content = content.try_into().map_err(|_| damaged("its hash has the wrong length".into()))?;
        match row.get::<_, i32>(3) {
            schema if schema == SCHEMA as i32 => {}
            other => return Err(damaged(format!("it has schema {other}; this Viva reads schema {SCHEMA}"))),
        }
        let size = |at: usize| usize::try_from(row.get::<_, i32>(at)).unwrap_or(0);
        Ok(Edition { embedder: self.embedder.clone(), dimensions: size(0), content, rows: size(2) })
    }

    async fn replace(
        &self,
        edition: &Edition,
        records: &[Record],
        vectors: &[f32],
        views: usize,
    ) -> Result<()> {
        let mut client = self.connect().await?;
        let all = client.transaction().await.map_err(failed)?;
        let free: bool =
            all.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?.get(0);
        if !free {
            return Err(StoreError::Busy("the database of knowledge.postgres".into()));
        }
        all.execute("DELETE FROM viva_questions_2 WHERE embedder = $1", &[&self.embedder])
            .await
            .map_err(failed)?;
        let insert = all.prepare(INSERT).await.map_err(failed)?;
        let rows = vectors.chunks(ROWS_AT_ONCE * views * edition.dimensions);
        for (records, vectors) in records.chunks(ROWS_AT_ONCE).zip(rows) {
            let vectors: Vec<String> = vectors
                .chunks_exact(views * edition.dimensions)
                .map(|views| array(views.chunks_exact(edition.dimensions)))
                .collect();
            let column = |of: fn(&Record) -> &str| records.iter().map(of).collect::<Vec<&str>>();
            let made = |of: fn(&Record) -> String| records.iter().map(of).collect::<Vec<String>>();
            let owners: Vec<&Option<String>> = records.iter().map(|record| &record.owner).collect();
            let industries: Vec<&Option<String>> = records.iter().map(|record| &record.industry).collect();
            let difficulties: Vec<i16> = records.iter().map(|record| i16::from(record.difficulty)).collect();
            let values: [&(dyn ToSql + Sync); 13] = [
                &self.embedder,
                &column(|record| &record.id),
                &owners,
                &column(|record| record.category.name()),
                &column(|record| &record.subcategory),
                &industries,
                &column(|record| record.level.name()),
                &difficulties,
                &made(|record| serde_json::to_string(record).expect("a record is plain data")),
                &vectors,
                &column(|record| &record.question),
                &made(|record| record.tags.join("\n")),
                &made(|record| [&record.criteria[..], &record.probes[..]].concat().join("\n")),
            ];
            all.execute(&insert, &values).await.map_err(failed)?;
        }
        let (dimensions, rows) = (edition.dimensions as i32, edition.rows as i32);
        let note = "INSERT INTO viva_editions_2 (embedder, dimensions, content, rows, schema) VALUES ($1, $2, $3, $4, $5) \
                    ON CONFLICT (embedder) DO UPDATE SET (dimensions, content, rows, schema, published) \
                    = (excluded.dimensions, excluded.content, excluded.rows, excluded.schema, now())";
        let content = &edition.content[..];
        let values: [&(dyn ToSql + Sync); 5] =
            [&self.embedder, &dimensions, &content, &rows, &(SCHEMA as i32)];
        all.execute(note, &values).await.map_err(failed)?;
        all.commit().await.map_err(failed)
    }
}

#[async_trait]
impl VectorStore for PgVector {
    async fn edition(&self) -> Result<Option<Edition>> {
        let client = self.client().await?;
        match self.stored(&client).await {
            Ok(edition) => Ok(Some(edition)),
            Err(StoreError::NoIndex(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn publish(&self, edition: Edition, records: Vec<Record>, vectors: Vec<f32>) -> Result<()> {
        let views = edition.views(&records, &vectors)?;
        let done =
            tokio::time::timeout(PUBLISH_WITHIN, self.replace(&edition, &records, &vectors, views)).await;
        done.map_err(|_| StoreError::failed("publishing", "the database took too long"))?
    }

    async fn search(&self, search: Search) -> Result<Vec<Hit>> {
        let client = self.client().await?;
        search.check(&self.stored(&client).await?)?;
        self.check_names(&client, &search.filter).await?;
        let depth = search.depth() as i64;
        let (dense, text) = match search.ranking {
            Ranking::Dense => (depth, 0),
            Ranking::Text => (0, depth),
            Ranking::Fused => (depth, depth),
        };
        let sql = format!(
            "WITH admitted AS NOT MATERIALIZED (SELECT * FROM viva_questions_2 WHERE {ADMITTED}),
             dense AS (SELECT id, {NEAREST} AS far FROM admitted ORDER BY far, id LIMIT $11),
             text AS (SELECT id, ts_rank_cd('{{0.1, 0.2, 0.3, 1.0}}', words, wanted) AS fit
                      FROM admitted, to_tsquery('english', $12) AS wanted WHERE words @@ wanted
                      ORDER BY fit DESC, id LIMIT $13),
             found AS (SELECT id, dense.id IS NOT NULL AS near, text.fit FROM dense FULL JOIN text USING (id))
             SELECT q.record, {NEAREST}, found.near, found.fit
             FROM found JOIN viva_questions_2 q ON q.embedder = $1 AND q.id = found.id ORDER BY q.id"
        );
        let (wanted, vector) = (Wanted::of(&search.filter), literal(&search.vector));
        let words = worth_finding(&search.text)
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" | ");
        let mut values = wanted.values(&self.embedder);
        values.extend([&vector as &(dyn ToSql + Sync), &dense, &words, &text]);
        let rows = limited(client.query(&sql, &values)).await?;
        ranked(&rows, &search)
    }

    async fn browse(&self, filter: Filter, skip: usize, n: usize) -> Result<Page> {
        check_filter(&filter)?;
        let client = self.client().await?;
        self.stored(&client).await?;
        self.check_names(&client, &filter).await?;
        let wanted = Wanted::of(&filter);
        let sql = format!("SELECT count(*) FROM viva_questions_2 WHERE {ADMITTED}");
        let total: i64 = limited(client.query_one(&sql, &wanted.values(&self.embedder))).await?.get(0);
        let sql = format!(
            "SELECT record FROM viva_questions_2 WHERE {ADMITTED} ORDER BY id COLLATE \"C\" LIMIT $10 OFFSET $11"
        );
        let (n, skip) = (n.min(RESULTS_MAX) as i64, i64::try_from(skip).unwrap_or(i64::MAX));
        let mut values = wanted.values(&self.embedder);
        values.extend([&n as &(dyn ToSql + Sync), &skip]);
        let rows = limited(client.query(&sql, &values)).await?;
        let records = rows.iter().map(|row| parse(row.get(0))).collect::<Result<_>>()?;
        Ok(Page { total: usize::try_from(total).unwrap_or(0), records })
    }

    async fn get(&self, owner: Option<&str>, ids: Vec<String>) -> Result<Vec<Record>> {
        let client = self.client().await?;
        let sql = "SELECT record FROM viva_questions_2 JOIN unnest($3::text[]) WITH ORDINALITY AS asked (id, place) \
                   USING (id) WHERE embedder = $1 AND owner IS NOT DISTINCT FROM $2 ORDER BY place";
        let rows = limited(client.query(sql, &[&self.embedder, &owner, &ids])).await?;
        rows.iter().map(|row| parse(row.get(0))).collect()
    }

    async fn collections(&self, owner: Option<&str>) -> Result<Vec<Collection>> {
        let client = self.client().await?;
        let sql = "SELECT category, count(*) FROM viva_questions_2 WHERE embedder = $1 \
                   AND owner IS NOT DISTINCT FROM $2 GROUP BY category";
        let rows = limited(client.query(sql, &[&self.embedder, &owner])).await?;
        let mut found = Vec::new();
        for row in rows {
            let category: Category = row
                .get::<_, &str>(0)
                .parse()
                .map_err(|error| StoreError::failed("a collection of the database cannot be read", error))?;
            let rows = usize::try_from(row.get::<_, i64>(1)).unwrap_or(0);
            found.push(Collection {
                name: collection_name(owner, category),
                owner: owner.map(str::to_owned),
                category,
                rows,
            });
        }
        found.sort_by_key(|collection| collection.category);
        Ok(found)
    }
}

/// The rows of a search, fused. They come by id.
fn ranked(rows: &[Row], search: &Search) -> Result<Vec<Hit>> {
    let distance = |i: &usize| rows[*i].get::<_, f64>(1);
    let fit = |i: &usize| rows[*i].get::<_, Option<f32>>(3);
    let mut dense: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].get(2)).collect();
    dense.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let mut text: Vec<usize> = (0..rows.len()).filter(|i| fit(i).is_some()).collect();
    text.sort_by(|a, b| fit(b).partial_cmp(&fit(a)).unwrap_or(std::cmp::Ordering::Equal));
    let best = fuse(&dense, &text, search.words_weight()).into_iter().take(search.n);
    best.map(|fused| {
        Ok(Hit {
            record: parse(rows[fused.item].get(0))?,
            score: fused.score,
            distance: distance(&fused.item) as f32,
            dense_rank: fused.dense_rank,
            text_rank: fused.text_rank,
        })
    })
    .collect()
}

/// A vector as pgvector reads it.
fn literal(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// Several vectors as PostgreSQL reads an array of them.
fn array<'a>(vectors: impl Iterator<Item = &'a [f32]>) -> String {
    let quoted: Vec<String> = vectors.map(|vector| format!("\"{}\"", literal(vector))).collect();
    format!("{{{}}}", quoted.join(","))
}

fn parse(json: &str) -> Result<Record> {
    serde_json::from_str(json)
        .map_err(|error| StoreError::failed("a record of the database cannot be read", error))
}

/// Waits for an answer, not for ever.
async fn limited<T>(
    answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    let within = tokio::time::timeout(ANSWER_WITHIN, answer).await;
    let late = |_| StoreError::failed("the database", format!("no answer in {} s", ANSWER_WITHIN.as_secs()));
    within.map_err(late)?.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> StoreError {
    StoreError::failed("the database", told(&error))
}

/// What went wrong with its cause: the error itself says little more than "db error".
fn told(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
