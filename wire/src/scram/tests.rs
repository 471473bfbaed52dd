//! SCRAM: the exchange of the RFC, both sides against each other, and everything that must not succeed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const ONE: NonZeroU32 = NonZeroU32::MIN;

/// The exchange of RFC 7677, section 3.
const RFC_CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const RFC_SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const RFC_SERVER_FIRST: &[u8] =
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const RFC_CLIENT_FINAL: &[u8] =
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc_verifier() -> Verifier {
    use base64::Engine as _;
    let salt = base64::engine::general_purpose::STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==");
    Verifier::generate("pencil", DEFAULT_ITERATIONS, &salt.unwrap())
}

fn server(verifier: Verifier, binding: ChannelBinding) -> ServerExchange {
    ServerExchange::new(verifier, binding)
}

/// Runs both sides and returns how each ended.
fn exchange(mut client: ClientExchange, mut server: ServerExchange) -> (Step, Option<Step>) {
    let challenge = match server.step(&client.start()) {
        Step::Continue(challenge) => challenge,
        end => return (end, None),
    };
    let response = match client.step(&challenge) {
        Step::Continue(response) => response,
        end => return (Step::Failure(ScramError::Finished), Some(end)),
    };
    match server.step(&response) {
        Step::Success(last) => {
            let seen = client.step(&last);
            (Step::Success(last), Some(seen))
        }
        end => (end, None),
    }
}

#[test]
fn the_exchange_of_the_rfc_comes_out() {
    let mut server = ServerExchange::with_nonce(
        rfc_verifier(),
        ChannelBinding::Unavailable,
        RFC_SERVER_NONCE.to_owned(),
    );
    assert_eq!(
        server.step(RFC_CLIENT_FIRST),
        Step::Continue(RFC_SERVER_FIRST.to_vec())
    );
    assert_eq!(
        server.step(RFC_CLIENT_FINAL),
        Step::Success(RFC_SERVER_FINAL.to_vec())
    );
    assert_eq!(
        server.step(RFC_CLIENT_FINAL),
        Step::Failure(ScramError::Finished)
    );
}

#[test]
fn a_verifier_survives_its_text() {
    let verifier = rfc_verifier();
    assert_eq!(
        verifier.to_string(),
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(Verifier::parse(&verifier.to_string()), Ok(verifier.clone()));
    assert_eq!(format!("{verifier:?}"), "Verifier { iterations: 4096, .. }");
}

#[test]
fn other_texts_are_no_verifiers() {
    for text in [
        "",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:AAAA",
        "SCRAM-SHA-256$4096$x:y",
    ] {
        assert_eq!(Verifier::parse(text), Err(ParseVerifierError), "{text}");
    }
}

#[test]
fn both_sides_prove_themselves() {
    let verifier = Verifier::generate("pässwörd", ONE, b"salt");
    let client = ClientExchange::new("pässwörd", ChannelBinding::Unavailable);
    let (served, seen) = exchange(client, server(verifier, ChannelBinding::Unavailable));
    assert!(matches!(served, Step::Success(_)));
    assert_eq!(seen, Some(Step::Success(Vec::new())));
}

#[test]
fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let known = Verifier::generate("right", ONE, b"salt");
    let mock = Verifier::mock("nobody", b"secret");
    assert_eq!(mock, Verifier::mock("nobody", b"secret"));
    assert_ne!(mock.salt, Verifier::mock("somebody", b"secret").salt);
    assert_ne!(mock.salt, Verifier::mock("nobody", b"other").salt);
    assert_eq!(mock.salt.len(), 16);
    for verifier in [known, mock] {
        let client = ClientExchange::new("wrong", ChannelBinding::Unavailable);
        let (served, _) = exchange(client, server(verifier, ChannelBinding::Unavailable));
        assert_eq!(served, Step::Failure(ScramError::WrongPassword));
    }
    assert_eq!(ScramError::WrongPassword.sqlstate(), "28P01");
}

#[test]
fn a_mock_refuses_even_a_matching_proof() {
    let mut verifier = Verifier::generate("right", ONE, b"salt");
    verifier.is_mock = true;
    let client = ClientExchange::new("right", ChannelBinding::Unavailable);
    let (served, _) = exchange(client, server(verifier, ChannelBinding::Unavailable));
    assert_eq!(served, Step::Failure(ScramError::WrongPassword));
}

#[test]
fn a_server_without_the_password_is_found_out() {
    let mut verifier = Verifier::generate("right", ONE, b"salt");
    verifier.server_key = [0; 32];
    let client = ClientExchange::new("right", ChannelBinding::Unavailable);
    let (_, seen) = exchange(client, server(verifier, ChannelBinding::Unavailable));
    assert_eq!(seen, Some(Step::Failure(ScramError::ServerSignature)));
}

#[test]
fn channel_binding_is_checked_on_both_ends() {
    let run = |client: ChannelBinding, offered: ChannelBinding| {
        let verifier = Verifier::generate("p", ONE, b"salt");
        exchange(ClientExchange::new("p", client), server(verifier, offered)).0
    };
    let end_point = |data: &[u8]| ChannelBinding::ServerEndPoint(data.to_vec());
    assert!(matches!(
        run(end_point(b"cert"), end_point(b"cert")),
        Step::Success(_)
    ));
    let mismatch = Step::Failure(ScramError::ChannelBinding);
    assert_eq!(run(end_point(b"cert"), end_point(b"other")), mismatch);
    assert_eq!(
        run(ChannelBinding::Offered, ChannelBinding::Offered),
        mismatch,
        "a hidden offer"
    );
    assert_eq!(
        run(ChannelBinding::Unavailable, end_point(b"cert")),
        mismatch
    );
    assert!(matches!(
        run(ChannelBinding::Offered, ChannelBinding::Unavailable),
        Step::Success(_)
    ));
    assert!(matches!(
        run(ChannelBinding::Unavailable, ChannelBinding::Offered),
        Step::Success(_)
    ));
}

#[test]
fn malformed_first_messages_are_named() {
    for (message, expected) in [
        (
            &b""[..],
            "malformed SCRAM message (no channel-binding flag)",
        ),
        (b"n", "malformed SCRAM message (no channel-binding flag)"),
        (
            b"x,,n=,r=a",
            "malformed SCRAM message (no channel-binding flag)",
        ),
        (
            b"p=x,,n=,r=a",
            "malformed SCRAM message (no channel-binding flag)",
        ),
        (
            b"n,a=root,n=,r=a",
            "SCRAM exchange uses an unsupported feature (authorization identity)",
        ),
        (
            b"n,x,n=,r=a",
            "malformed SCRAM message (no authorization identity)",
        ),
        (
            b"n,,m=x,n=,r=a",
            "SCRAM exchange uses an unsupported feature (mandatory extension)",
        ),
        (b"n,,r=a", "malformed SCRAM message (no user name)"),
        (b"n,,n=", "malformed SCRAM message (no nonce)"),
        (
            b"n,,n=,r=",
            "malformed SCRAM message (non-printable characters in nonce)",
        ),
        (
            b"n,,n=,r=\x01",
            "malformed SCRAM message (non-printable characters in nonce)",
        ),
        (b"n,,n=,r=a\xff", "malformed SCRAM message (not a text)"),
    ] {
        let Step::Failure(error) =
            server(rfc_verifier(), ChannelBinding::Unavailable).step(message)
        else {
            panic!("{message:?}")
        };
        assert_eq!(error.to_string(), expected, "{message:?}");
    }
}

#[test]
fn malformed_final_messages_are_named() {
    let last = |message: &[u8]| {
        let mut server = ServerExchange::with_nonce(
            Verifier::generate("p", ONE, b"salt"),
            ChannelBinding::Unavailable,
            "b".to_owned(),
        );
        assert!(matches!(server.step(b"n,,n=,r=a"), Step::Continue(_)));
        match server.step(message) {
            Step::Failure(error) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(last(b"c=biws,r=ab"), ScramError::Malformed("no proof"));
    assert_eq!(
        last(b"r=ab,p=AAAA"),
        ScramError::Malformed("no channel binding")
    );
    assert_eq!(last(b"c=biws,p=AAAA"), ScramError::Malformed("no nonce"));
    assert_eq!(last(b"c=biws,r=xy,p=AAAA"), ScramError::Nonce);
    assert_eq!(last(b"c=eSws,r=ab,p=AAAA"), ScramError::ChannelBinding);
    assert_eq!(
        last(b"c=!,r=ab,p=AAAA"),
        ScramError::Malformed("malformed channel binding")
    );
    assert_eq!(
        last(b"c=biws,r=ab,p=AAAA"),
        ScramError::Malformed("malformed proof")
    );
}

#[test]
fn a_server_that_misbehaves_is_refused() {
    let client = || ClientExchange::with_nonce("p", ChannelBinding::Unavailable, "a".to_owned());
    let answer = |message: &[u8]| match client().step(message) {
        Step::Failure(error) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(b"r=xb,s=c2FsdA==,i=1"), ScramError::Nonce);
    assert_eq!(
        answer(b"r=a,s=c2FsdA==,i=1"),
        ScramError::Nonce,
        "the server adds its part"
    );
    assert_eq!(
        answer(b"r=ab,s=c2FsdA==,i=0"),
        ScramError::Malformed("malformed iteration count")
    );
    assert_eq!(
        answer(b"r=ab,s=c2FsdA==,i=1000001"),
        ScramError::Unsupported("iteration count")
    );
    assert_eq!(
        answer(b"r=ab,s=!,i=1"),
        ScramError::Malformed("malformed salt")
    );
    let mut refused = client();
    assert!(matches!(
        refused.step(b"r=ab,s=c2FsdA==,i=1"),
        Step::Continue(_)
    ));
    assert_eq!(
        refused.step(b"e=other-error"),
        Step::Failure(ScramError::Refused("other-error".to_owned()))
    );
}

#[test]
fn known_keys_serve_until_the_salt_changes() {
    let verifier = Verifier::generate("p", ONE, b"salt");
    let run = |password: &str, verifier: &Verifier, keys: Option<ClientKeys>| {
        let mut client =
            ClientExchange::new(password, ChannelBinding::Unavailable).with_known_keys(keys);
        let mut server = server(verifier.clone(), ChannelBinding::Unavailable);
        let Step::Continue(challenge) = server.step(&client.start()) else {
            panic!()
        };
        let Step::Continue(response) = client.step(&challenge) else {
            panic!()
        };
        (server.step(&response), client.into_keys())
    };
    let (step, keys) = run("p", &verifier, None);
    assert!(matches!(step, Step::Success(_)));
    let (step, keys) = run("not looked at", &verifier, keys);
    assert!(matches!(step, Step::Success(_)));
    let (step, _) = run("p", &Verifier::generate("p", ONE, b"other"), keys);
    assert!(matches!(step, Step::Success(_)));
}

#[test]
fn passwords_are_prepared_as_postgresql_prepares_them() {
    let same =
        |a: &str, b: &str| Verifier::generate(a, ONE, b"s") == Verifier::generate(b, ONE, b"s");
    assert!(same("a\u{a0}b", "a b"), "mapped to a space");
    assert!(same("I\u{ad}X", "IX"), "mapped to nothing");
    assert!(same("\u{2168}", "IX"), "normalised");
    assert!(!same("a\u{7}", "a"), "prohibited: used as it is");
    assert!(!same("\u{ad}", ""), "nothing left: used as it is");
}

proptest! {
    #[test]
    fn any_password_is_accepted_by_its_verifier(password in "\\PC{0,24}", salt: Vec<u8>) {
        let verifier = Verifier::generate(&password, ONE, &salt);
        let client = ClientExchange::new(&password, ChannelBinding::Unavailable);
        let (served, seen) = exchange(client, server(verifier, ChannelBinding::Unavailable));
        prop_assert!(matches!(served, Step::Success(_)));
        prop_assert_eq!(seen, Some(Step::Success(Vec::new())));
    }

    #[test]
    fn no_message_makes_either_side_panic_or_succeed(first: Vec<u8>, second: Vec<u8>) {
        let verifier = Verifier::generate("p", ONE, b"salt");
        let mut server = server(verifier, ChannelBinding::Unavailable);
        let _ = server.step(&first);
        prop_assert!(!matches!(server.step(&second), Step::Success(_)));
        let mut client = ClientExchange::new("p", ChannelBinding::Unavailable);
        let _ = client.step(&first);
        prop_assert!(!matches!(client.step(&second), Step::Success(_)));
    }
}
