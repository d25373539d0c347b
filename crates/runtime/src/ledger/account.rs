//! What an account is called.

use std::fmt::Write as _;

use super::payer::Scope;
use super::window::Window;

/// The name of an account. No two parties, windows or sets of operations share one, whatever they are
/// called: what separates the parts is escaped in them.
pub(super) fn account_name(
    scope: Scope,
    party: &[&str],
    window: Window,
    operations: &[String],
) -> String {
    let mut name = scope.word().to_owned();
    for (number, part) in party.iter().enumerate() {
        name.push(if number == 0 { ':' } else { '/' });
        escape(part, &mut name);
    }
    if window != Window::Whole {
        name.push('/');
        name.push_str(window.word());
    }
    for (number, operation) in operations.iter().enumerate() {
        name.push(if number == 0 { '+' } else { ',' });
        escape(operation, &mut name);
    }
    name
}

fn escape(part: &str, into: &mut String) {
    for c in part.chars() {
        if matches!(c, '%' | ':' | '/' | '+' | ',') || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                write!(into, "%{byte:02X}").unwrap_or_default();
            }
        } else {
            into.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn g9_a_name_cannot_be_made_to_look_like_another_account() {
        let name = |scope, party: &[&str]| account_name(scope, party, Window::Day, &[]);
        assert_eq!(name(Scope::Tenant, &["acme"]), "tenant:acme/day");
        assert_eq!(name(Scope::All, &[]), "all/day");
        assert_eq!(name(Scope::Tenant, &["acme/day"]), "tenant:acme%2Fday/day");
        assert_eq!(name(Scope::User, &["acme", "a/b%+,:\n"]), "user:acme/a%2Fb%25%2B%2C%3A%0A/day");
        let operations = ["plan+day".to_owned(), "b".to_owned()];
        let all = account_name(Scope::Session, &["acme", "s"], Window::Whole, &operations);
        assert_eq!(all, "session:acme/s+plan%2Bday,b");
    }

    fn part() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop::sample::select(vec!['a', 'd', '/', ':', '%', '+', ',', '2', 'F', '\n']),
            0..5,
        )
        .prop_map(String::from_iter)
    }

    fn parts() -> impl Strategy<Value = (Scope, Vec<String>, Window, Vec<String>)> {
        let scope = prop::sample::select(vec![
            Scope::All,
            Scope::Tenant,
            Scope::User,
            Scope::Key,
            Scope::Agent,
            Scope::Model,
            Scope::Session,
            Scope::Run,
        ]);
        let window = prop::sample::select(vec![
            Window::Call,
            Window::Whole,
            Window::Hour,
            Window::Day,
            Window::Week,
            Window::Month,
        ]);
        let party = proptest::collection::vec(part(), 2);
        (scope, party, window, proptest::collection::vec(part(), 0..3)).prop_map(
            |(scope, party, window, operations)| {
                let count = match scope {
                    Scope::All => 0,
                    Scope::Tenant => 1,
                    _ => 2,
                };
                (scope, party[..count].to_vec(), window, operations)
            },
        )
    }

    proptest! {
        #[test]
        fn g9_different_accounts_have_different_names(one in parts(), other in parts()) {
            let name = |(scope, party, window, operations): &(Scope, Vec<String>, Window, Vec<String>)| {
                let party: Vec<&str> = party.iter().map(String::as_str).collect();
                account_name(*scope, &party, *window, operations)
            };
            prop_assert_eq!(one == other, name(&one) == name(&other));
        }
    }
}
