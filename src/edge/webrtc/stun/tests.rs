#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use rtc::stun::message::Setter;
use rtc::stun::textattrs::TextAttribute;

use super::*;

/// A check as a peer sends it.
pub fn check(username: &str, password: &str) -> Vec<u8> {
    let provider = rtc::crypto::default_provider().unwrap();
    let mut message = Message::new();
    message.set_type(BINDING_REQUEST);
    message.new_transaction_id().unwrap();
    message.write_header();
    TextAttribute::new(ATTR_USERNAME, username.to_owned()).add_to(&mut message).unwrap();
    MessageIntegrity::new_short_term_integrity_with_provider(password.to_owned(), provider.crypto())
        .add_to(&mut message)
        .unwrap();
    message.raw
}

#[test]
fn a_check_says_whom_it_is_for_and_proves_itself_with_their_password_only() {
    let datagram = check("ours:theirs", "the password of twenty-two");
    assert_eq!(kind(&datagram), Kind::Stun);
    let mut check = Check::read(&datagram).unwrap();
    assert_eq!(check.asked().unwrap(), "ours");
    assert!(check.proves("the password of twenty-two"));
    assert!(!check.proves("another password of twenty-two"));
    assert!(!check.proves(""));
}

#[test]
fn a_check_whose_name_was_exchanged_proves_nothing() {
    let mut datagram = check("ours:theirs", "the password of twenty-two");
    let at = datagram.windows(4).position(|w| w == b"ours").unwrap();
    datagram[at] = b'0';
    let mut check = Check::read(&datagram).unwrap();
    assert_eq!(check.asked().unwrap(), "0urs");
    assert!(!check.proves("the password of twenty-two"));
}

proptest! {
    /// Anything may come from the network.
    #[test]
    fn no_datagram_does_harm_or_proves_anything(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        kind(&bytes);
        if let Some(mut check) = Check::read(&bytes) {
            check.asked();
            prop_assert!(!check.proves("the password of twenty-two"));
        }
    }

    /// A real check, damaged anywhere: it is refused or still names someone, but proves nothing.
    #[test]
    fn a_damaged_check_does_no_harm_and_proves_nothing(at in 0_usize..200, bit in 0_u8..8, cut in 0_usize..200) {
        let whole = check("ours:theirs", "the password of twenty-two");
        let mut damaged = whole.clone();
        let at = at % whole.len();
        damaged[at] ^= 1 << bit;
        damaged.truncate(whole.len() - cut % whole.len());
        if let Some(mut check) = Check::read(&damaged) {
            check.asked();
            // What stands behind the MAC is not covered by it, and nothing does here.
            prop_assert!(!check.proves("the password of twenty-two"), "byte {at}");
        }
    }
}
