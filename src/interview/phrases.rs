//! The interviewer's own lines. Several of each, because whoever hears the same opening twice hears a machine.

use std::collections::VecDeque;

use super::plan::{Section, Tone};

/// Replies within which no opening comes again.
pub const APART: usize = 3;

/// Words that make an opening.
const OPENING_WORDS: usize = 2;

/// How a reply begins, as far as a listener would notice that it begins like another.
pub fn opening(text: &str) -> String {
    super::words::tokens(text).into_iter().take(OPENING_WORDS).collect::<Vec<_>>().join(" ")
}

/// One of the lines: by turn, but none that begins like one of the last [`APART`].
pub fn pick<'a>(lines: &[&'a str], turn: u64, recent: &VecDeque<String>) -> &'a str {
    let n = lines.len();
    let at = |i: usize| lines[(turn as usize + i) % n];
    (0..n).map(at).find(|line| !recent.contains(&opening(line))).unwrap_or_else(|| at(0))
}

/// What is said of an answer before the next question. It must be true of any answer: it is spoken before anybody
/// has judged this one.
pub fn acknowledge(tone: Tone) -> &'static [&'static str] {
    match tone {
        Tone::Warm => &[
            "Thank you for that.",
            "I see.",
            "That helps me, thanks.",
            "All right.",
            "Good to know.",
            "Thanks, I follow.",
            "That is clear.",
        ],
        Tone::Formal => &[
            "Thank you.",
            "I understand.",
            "Very well.",
            "That is noted.",
            "I appreciate that.",
            "Understood, thank you.",
        ],
        Tone::Brisk => &["Okay.", "Got it.", "Right.", "Understood.", "Makes sense.", "Noted, thanks."],
    }
}

/// After "yes, let's begin" or when there is nothing to acknowledge.
pub const BEGIN: [&str; 5] =
    ["Wonderful.", "Great, let us start.", "Good, here we go.", "Then let us begin.", "Fine, to begin."];

/// Before a question that is asked once more.
pub const AGAIN: [&str; 5] = [
    "Of course.",
    "Sure, once more.",
    "Certainly, here it is again.",
    "No problem, again.",
    "Gladly, I asked this.",
];

/// When somebody needs time.
pub const TAKE_TIME: [&str; 5] = [
    "Of course, take your time.",
    "Sure, there is no hurry.",
    "Please do, I am listening.",
    "No problem, think it over.",
    "Certainly, I will wait.",
];

/// When somebody does not know.
pub const NOT_KNOWN: [&str; 5] = [
    "That is all right.",
    "No harm in that.",
    "Fair enough.",
    "Thank you for being frank.",
    "That can happen.",
];

/// When a question is passed over.
pub const SKIPPED: [&str; 5] = [
    "Of course, we leave that one.",
    "Sure, let us move on.",
    "That is fine, another one then.",
    "No problem, next one.",
    "Certainly, we go on.",
];

/// When somebody has nothing (more) to say to a question.
pub const NOTHING_MORE: [&str; 5] = [
    "All right, then we go on.",
    "Fine, then let us continue.",
    "Then here is the next one.",
    "As you like, we move on.",
    "Good, on we go.",
];

/// When an answer has taken longer than it may.
pub const ENOUGH: [&str; 5] = [
    "Let me stop you there, thank you.",
    "I have to interrupt here, thank you.",
    "Forgive me for cutting in, I have a good picture.",
    "May I pause you there, thank you.",
    "Sorry to break in, time is short.",
];

/// Before a question is put in other words.
pub const DIFFERENTLY: [&str; 5] = [
    "Let me put it differently.",
    "Good that you ask.",
    "In other words, then.",
    "I will say it more simply.",
    "Happy to explain.",
];

/// When an answer is only a few words.
pub const MORE: [&str; 7] = [
    "Could you tell me a little more about that?",
    "I would like to hear more, what exactly did you do?",
    "Please go on, how did that look in practice?",
    "Can you give me an example of that?",
    "Tell me more, what was your part in it?",
    "That was brief, what is behind it?",
    "And in detail, how was that?",
];

/// The first time somebody is silent for long.
pub const NUDGE: [&str; 5] = [
    "Take all the time you need.",
    "There is no hurry at all.",
    "Just begin wherever you like.",
    "It need not be perfect, just start.",
    "No rush, I am here.",
];

/// The second time.
pub const OFFER: [&str; 4] = [
    "Shall I repeat the question, or shall we go on to another one?",
    "Would it help if I said the question again?",
    "If you like, we can leave this one; just say so.",
    "We can also come to another question; shall we?",
];

/// The third time, and then no more.
pub const HERE: [&str; 4] = [
    "I am still here whenever you are ready.",
    "Still listening, whenever you like.",
    "Whenever you want to go on, I am listening.",
    "My line is open, speak when you like.",
];

/// Before the time is told.
pub const CLOCK: [&str; 5] = [
    "Let me look.",
    "One look at the clock.",
    "Good that you ask.",
    "By my clock, then.",
    "Sure, I can tell you.",
];

/// To whoever insults.
pub const RESPECT: [&str; 4] = [
    "I would like us to stay respectful.",
    "Let us keep this polite, please.",
    "Please stay civil, then we can go on.",
    "That is not how we should talk.",
];

/// To whoever wants us to be something else.
pub const IN_ROLE: [&str; 5] = [
    "I am here for your interview, so let us stay with that.",
    "My part today is only this interview.",
    "We should come back to the interview.",
    "That is not something I do here.",
    "Let us return to our conversation.",
];

/// To a question in the midst of the interview.
pub const LATER: [&str; 5] = [
    "Good question, we will have time for that at the end.",
    "Let us keep that for the end, please.",
    "I will come back to your questions shortly.",
    "Your questions have their place at the end.",
    "Please hold that thought until the end.",
];

/// To what only the employer knows.
pub const FOR_THE_TEAM: [&str; 6] = [
    "That is for the hiring team to say, and I have written it down for them.",
    "I cannot speak for the company on that, but I have noted it for the team.",
    "Good point; the people you would work with will answer it better, and I pass it on.",
    "I do not have that detail, so I have put it on the list for the team.",
    "Honestly, I do not know that; your question goes to the team with my notes.",
    "Someone from the team will get back to you on that; it is in my notes.",
];

/// To what a candidate says when they may ask.
pub const HEARD: [&str; 5] = [
    "That is good to know.",
    "I have noted that.",
    "Thank you for saying so.",
    "Understood, it is in my notes.",
    "I will pass that on.",
];

/// Whether there is another question.
pub const ANYTHING_ELSE: [&str; 5] = [
    "What else would you like to know?",
    "Is there anything else you would like to ask?",
    "Do you have another question?",
    "Anything else on your mind?",
    "What other question do you have?",
];

/// Where there is time left and nobody has a question.
pub const SPARE: [&str; 4] = [
    "Then let us use the time for one more.",
    "Since we have time, one more question.",
    "Good, that leaves room for another one.",
    "Then I have a last one for you.",
];

/// Before a question that could not be heard.
pub const RESUME: [&str; 5] = [
    "So, what I wanted to ask.",
    "Now, my question.",
    "Back to my question.",
    "As I was going to ask.",
    "To come back to it.",
];

/// To somebody whose line was lost.
pub const WELCOME_BACK: [&str; 3] = ["Welcome back.", "Good to have you back.", "There you are again."];

/// Where one part ends and another begins.
pub fn bridge(section: Section) -> &'static [&'static str] {
    match section {
        Section::SelfIntroduction => {
            &["First I would like to get to know you a little.", "Let us begin with you."]
        }
        Section::Behavioral => &[
            "Let us turn to things you have been through at work.",
            "Now I am interested in situations from your work.",
        ],
        Section::Technical => &["Let us get to the craft itself.", "Now to the technical side."],
        Section::SoftSkills => &["Now to how you work with others.", "Let us look at working together."],
        Section::Questions => &["Now it is your turn.", "That was my last question for now."],
        Section::Greeting | Section::Close => &[""],
    }
}

/// What is asked where the bank has nothing.
pub fn stock(section: Section) -> &'static [&'static str] {
    match section {
        Section::SelfIntroduction => &[
            "Would you tell me who you are and what brought you to this work?",
            "What should I know about you that is not in your papers?",
        ],
        Section::Behavioral => &[
            "Which piece of work from last year are you proud of, and what was your part in it?",
            "When did a plan of yours last go wrong, and what did you do then?",
            "What was the hardest decision you took at work this year?",
        ],
        Section::Technical => &[
            "Which part of your trade do you know best, and how would you explain it to a newcomer?",
            "What mistake do beginners in your trade make most often?",
            "Which tool of your trade would you miss most, and why?",
        ],
        Section::SoftSkills => &[
            "How do you tell a colleague that you see something differently?",
            "What do your colleagues come to you for?",
            "How do you notice that somebody in your team needs help?",
        ],
        Section::Greeting | Section::Questions | Section::Close => {
            &["Is there anything else you would like to tell me?"]
        }
    }
}

/// The first words of all.
pub fn greeting(tone: Tone, role: &str, minutes: u32) -> String {
    let article = if role.starts_with(['a', 'e', 'i', 'o', 'A', 'E', 'I', 'O']) { "an" } else { "a" };
    match tone {
        Tone::Warm => format!(
            "Hello, and welcome. I am Viva, and I will talk with you about working as {article} {role}. We have about \
             {minutes} minutes, and at the end you can ask me something, too. Shall we begin?"
        ),
        Tone::Formal => format!(
            "Good day, and thank you for coming. My name is Viva, and I conduct this interview for the position of \
             {role}. It takes about {minutes} minutes, the last of which are for your own questions. May we begin?"
        ),
        Tone::Brisk => format!(
            "Hi, I am Viva. This is your interview as {article} {role}, about {minutes} minutes, with room for your \
             questions at the end. Ready to start?"
        ),
    }
}

/// The last words but a goodbye.
pub fn close(tone: Tone) -> &'static str {
    match tone {
        Tone::Warm => {
            "That brings us to the end of our time. Thank you for this conversation, I enjoyed it. The team will be in \
             touch with you. Goodbye!"
        }
        Tone::Formal => {
            "With that we have reached the end of the interview. Thank you for your time and your answers. You will hear \
             from the team. Goodbye."
        }
        Tone::Brisk => {
            "Time is up, so we stop here. Thanks for your answers, the team will be in touch. Goodbye."
        }
    }
}

/// Before the time is up: they asked for it, or insulted once too often.
pub fn close_early(asked_for: bool) -> &'static str {
    if asked_for {
        "As you wish, then we end here. Thank you for your time, and all the best. Goodbye."
    } else {
        "I end the interview here. Goodbye."
    }
}

/// To whoever says something after the end.
pub const GOODBYE: [&str; 3] = ["Thank you, goodbye.", "All the best, goodbye.", "Take care, goodbye."];

/// How much time is left, in words.
pub fn time_left(ms: u64) -> String {
    match ms.div_ceil(60_000) {
        0 | 1 => "less than a minute is left".into(),
        2 => "about two minutes are left".into(),
        n => format!("about {n} minutes are left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_can_keep_its_openings_apart() {
        let lists: Vec<&[&str]> = vec![
            acknowledge(Tone::Warm),
            acknowledge(Tone::Formal),
            acknowledge(Tone::Brisk),
            &BEGIN,
            &AGAIN,
            &TAKE_TIME,
            &NOT_KNOWN,
            &SKIPPED,
            &NOTHING_MORE,
            &ENOUGH,
            &DIFFERENTLY,
            &MORE,
            &NUDGE,
            &OFFER,
            &HERE,
            &CLOCK,
            &RESPECT,
            &IN_ROLE,
            &LATER,
            &FOR_THE_TEAM,
            &HEARD,
            &ANYTHING_ELSE,
            &SPARE,
            &RESUME,
        ];
        for list in lists {
            let openings: std::collections::HashSet<_> = list.iter().map(|line| opening(line)).collect();
            assert_eq!(openings.len(), list.len(), "{list:?}");
            assert!(list.len() > APART, "{list:?}");
            let mut recent = VecDeque::new();
            for turn in 0..50 {
                let line = pick(list, turn * 7 % 5, &recent);
                assert!(!recent.contains(&opening(line)), "{line}");
                recent.push_back(opening(line));
                if recent.len() > APART {
                    recent.pop_front();
                }
            }
        }
    }

    #[test]
    fn time_is_said_as_people_say_it() {
        assert_eq!(time_left(10_000), "less than a minute is left");
        assert_eq!(time_left(61_000), "about two minutes are left");
        assert_eq!(time_left(8 * 60_000 + 1), "about 9 minutes are left");
    }
}
