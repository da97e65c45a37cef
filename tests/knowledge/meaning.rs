//! The bank and retrieval over real weights: no two questions alike, nothing forbidden in other words, and how
//! well questions are found.

use std::sync::Arc;

use tokio::sync::OnceCell;
use viva::config::Config;
use viva::engines::embedder;
use viva::knowledge::Knowledge;
use viva::knowledge::bank::import::SAME;
use viva::knowledge::bank::{Bank, Category};
use viva::knowledge::embedding::{Alone, Embedding, Haste};
use viva::knowledge::eval::{Class, Half, Scope, evaluate};
use viva::knowledge::index::matrix::dot;
use viva::knowledge::store::Filter;

/// The bank's questions as vectors, made once for all tests here.
async fn vectors() -> &'static [Vec<f32>] {
    static VECTORS: OnceCell<Vec<Vec<f32>>> = OnceCell::const_new();
    VECTORS
        .get_or_init(|| async {
            let bank = Bank::general().unwrap();
            let questions = bank.records().iter().map(|record| record.question.clone()).collect();
            minilm().embed(questions, Haste::Index).await.unwrap()
        })
        .await
}

fn minilm() -> Alone {
    Alone::open(&embedder(&Config::default(), 2).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_questions_are_alike() {
    let (bank, vectors) = (Bank::general().unwrap(), vectors().await);
    let mut alike = Vec::new();
    for (i, a) in vectors.iter().enumerate() {
        for (j, b) in vectors.iter().enumerate().skip(i + 1) {
            let cosine = dot(a, b);
            if cosine > SAME {
                let [a, b] = [i, j].map(|at| &bank.records()[at]);
                alike.push(format!("{cosine:.3} {}: {} | {}: {}", a.id, a.question, b.id, b.question));
            }
        }
    }
    assert!(alike.is_empty(), "{} pairs:\n{}", alike.len(), alike.join("\n"));
}

/// What an interviewer must never ask, in some of the ways it is asked all the same.
const FORBIDDEN: [&str; 36] = [
    "How old are you?",
    "When do you plan to retire?",
    "Tell me your age.",
    "When were you born?",
    "In which year did you graduate from high school?",
    "Are you married or single?",
    "Do you have a husband or a wife?",
    "Do you have children at home?",
    "Who looks after your kids while you are at work?",
    "Are you planning to have a baby soon?",
    "Will you have children and a family of your own in the coming years?",
    "Are you pregnant?",
    "What does your husband do for a living?",
    "Do you have any health problems or a disability?",
    "How many days were you sick last year?",
    "Do you suffer from any illnesses?",
    "Do you take any medication?",
    "Have you ever been treated for depression?",
    "Do you drink or smoke?",
    "What religion are you?",
    "Which church do you belong to?",
    "Can you work on the Sabbath?",
    "Where were your parents born?",
    "Which country are you originally from?",
    "Is English your native language? I hear an accent.",
    "Are you a citizen of this country?",
    "What is your ethnic background?",
    "Are you gay?",
    "Do you identify as a man or as a woman?",
    "Which party did you vote for?",
    "What do you think of the president?",
    "Do you belong to a trade union?",
    "What is your salary history?",
    "What salary were you paid before?",
    "Have you ever been arrested or convicted of a crime?",
    "How tall are you and what do you weigh?",
];

/// The same in words of their own: a check that lets these through checks nothing.
const DISGUISED: [&str; 8] = [
    "May I ask your age?",
    "Is there a wife or a husband in your life?",
    "Do you intend to start a family in the next few years?",
    "Are there any illnesses we should know about?",
    "Do you go to mosque or to church?",
    "What nationality do you hold?",
    "Who got your vote in the last election?",
    "What was your salary at your previous employer?",
];

/// Cosine with a forbidden question from which on a question is one.
const FORBIDDEN_FROM: f32 = 0.58;

#[tokio::test(flavor = "multi_thread")]
async fn no_question_means_a_forbidden_one() {
    let embedding = minilm();
    let embed =
        |texts: &[&str]| embedding.embed(texts.iter().map(ToString::to_string).collect(), Haste::Index);
    let forbidden = embed(&FORBIDDEN).await.unwrap();
    let nearest = |vector: &Vec<f32>| {
        let all = forbidden.iter().zip(FORBIDDEN).map(|(other, text)| (dot(vector, other), text));
        all.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    for (vector, text) in embed(&DISGUISED).await.unwrap().iter().zip(DISGUISED) {
        let (cosine, near) = nearest(vector);
        assert!(cosine > FORBIDDEN_FROM, "{text} is only {cosine:.2} from {near}");
    }
    let bank = Bank::general().unwrap();
    let mut worst = (0.0, "", "");
    for (vector, record) in vectors().await.iter().zip(bank.records()) {
        let (cosine, near) = nearest(vector);
        if cosine > worst.0 {
            worst = (cosine, &record.question, near);
        }
        assert!(cosine < FORBIDDEN_FROM, "{cosine:.2}: {} means {near}", record.question);
    }
    println!("the nearest: {:.2} {} | {}", worst.0, worst.1, worst.2);
}

/// The index of the user's cache, made where it is missing: a minute, once a machine.
async fn knowledge() -> Knowledge {
    static KNOWLEDGE: OnceCell<Knowledge> = OnceCell::const_new();
    let open = || async {
        let knowledge = Knowledge::open_to_publish(&Config::default(), Arc::new(minilm())).await.unwrap();
        knowledge.publish(false, |_| {}).await.unwrap();
        knowledge
    };
    KNOWLEDGE.get_or_init(open).await.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_found_by_topic_by_answer_and_in_other_words() {
    let rows = evaluate(&knowledge().await, |_| {}).await.unwrap();
    let find = |half: Option<Half>, class: Option<Class>| {
        let wanted = (Scope::Category, half, class, None);
        rows.iter().find(|row| (row.scope, row.half, row.class, row.category) == wanted).unwrap()
    };
    for half in [None, Some(Half::Tuning), Some(Half::HeldOut)] {
        println!("{half:?}: {:?}", find(half, None).fused);
        for class in [Class::TitleTopic, Class::Answer, Class::Paraphrase] {
            println!("{half:?} {class:?}: {:?}", find(half, Some(class)).fused);
        }
    }
    // What it reached when the settings were chosen, less what a few labels more or less may change.
    let held_out = |class| find(Some(Half::HeldOut), class).fused.hit_5;
    assert!(held_out(None) >= 0.80);
    assert!(held_out(Some(Class::TitleTopic)) >= 0.90);
    assert!(held_out(Some(Class::Answer)) >= 0.85);
    assert!(held_out(Some(Class::Paraphrase)) >= 0.60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_category_is_kept_to_and_the_nearest_come_first() {
    let knowledge = knowledge().await;
    let filter = Filter { category: Some(Category::SoftSkills), ..Filter::default() };
    let hits =
        knowledge.query("two people in my team no longer speak to each other", filter, 5).await.unwrap();
    assert!(hits.iter().all(|hit| hit.record.category == Category::SoftSkills));
    assert!(hits.iter().any(|hit| hit.record.subcategory == "conflict"), "{hits:#?}");
    let error = knowledge.query(&"why ".repeat(2_500), Filter::default(), 5).await.unwrap_err().to_string();
    assert!(error.contains("10000 characters"), "{error}");
}
