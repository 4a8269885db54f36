//! The roles of a node: a list, separated by commas.

use std::{collections::BTreeSet, fmt, str::FromStr};

use broadcast::config::quote;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use crate::nearest::nearest;

/// One thing that a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Logs what it receives.
    Receiver,
    /// Sends every interval, and logs what it receives.
    Sender,
    /// Votes in the replicated store.
    Voter,
}

impl Role {
    const ALL: [Self; 3] = [Self::Receiver, Self::Sender, Self::Voter];

    /// The name in settings, in the log and for other nodes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Sender => "sender",
            Self::Voter => broadcast_store::node::VOTER_ROLE,
        }
    }

    fn help(self) -> &'static str {
        match self {
            Self::Receiver => "Log what it receives",
            Self::Sender => "Send every interval, and log what it receives",
            Self::Voter => "Agree, with the other voters, on what the store holds",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The roles of one node, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roles(BTreeSet<Role>);

impl Default for Roles {
    fn default() -> Self {
        Role::Receiver.into()
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(BTreeSet::from([role]))
    }
}

impl Roles {
    /// The same roles and one more.
    pub(crate) fn with(mut self, role: Role) -> Self {
        self.0.insert(role);
        self
    }

    /// Whether the node has this role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Each role once, always in the same order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Role> {
        self.0.iter().copied()
    }

    /// The roles to run: a sender does everything that a receiver does.
    pub(super) fn to_run(&self) -> impl Iterator<Item = Role> {
        let is_included = |role: &Role| *role == Role::Receiver && self.0.contains(&Role::Sender);
        self.iter().filter(move |role| !is_included(role))
    }
}

impl FromStr for Roles {
    type Err = String;

    /// An empty list is the default. Order and repetition do not matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let roles = items.map(|item| role(item, text)).collect::<Result<BTreeSet<_>, _>>()?;
        if roles.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self(roles))
    }
}

/// The role of this name, in a list.
fn role(name: &str, list: &str) -> Result<Role, String> {
    Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
        let names = Role::ALL.map(Role::name);
        // The whole list is shown beside this text.
        let which = if name == list.trim() { String::new() } else { format!("{} is not a role; ", quote(name)) };
        let nearest = nearest(name, names).map(|nearest| format!("; did you mean {nearest}?"));
        format!("{which}it must be one of: {}{}", names.join(", "), nearest.unwrap_or_default())
    })
}

/// Clap's parser for a list of roles: one value, whose possible words are in the help and in completions.
pub(crate) fn parser() -> impl TypedValueParser<Value = Roles> {
    RolesParser
}

#[derive(Clone)]
struct RolesParser;

impl TypedValueParser for RolesParser {
    type Value = Roles;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Roles, clap::Error> {
        StringValueParser::new().try_map(|text| text.parse::<Roles>()).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Role::ALL.into_iter().map(|role| PossibleValue::new(role.name()).help(role.help()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        text.parse::<Roles>()
            .map_or_else(|problem| problem, |roles| roles.iter().map(Role::name).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn a_list_is_read_whatever_its_order_and_how_often_it_names_a_role() {
        for (text, roles) in [
            ("receiver", "receiver"),
            ("sender", "sender"),
            ("receiver,sender", "receiver,sender"),
            (" sender , receiver,sender", "receiver,sender"),
            ("receiver,receiver,", "receiver"),
            ("voter,receiver", "receiver,voter"),
            ("", "receiver"),
            (" ,", "receiver"),
        ] {
            assert_eq!(read(text), roles, "{text:?}");
        }
    }

    #[test]
    fn what_a_sender_does_anyway_is_not_done_twice() {
        for (text, played) in [("receiver", "receiver"), ("sender", "sender"), ("sender,receiver", "sender")] {
            let roles: Roles = text.parse().expect("roles");
            assert_eq!(roles.to_run().map(Role::name).collect::<Vec<_>>(), [played]);
        }
    }

    #[test]
    fn what_is_no_role_is_named_with_what_it_may_have_been_meant_to_be() {
        for (text, problem) in [
            ("listener", "it must be one of: receiver, sender, voter"),
            ("sendr", "it must be one of: receiver, sender, voter; did you mean sender?"),
            (
                "sender,reciever",
                "\"reciever\" is not a role; it must be one of: receiver, sender, voter; did you mean receiver?",
            ),
            ("sender receiver", "it must be one of: receiver, sender, voter"),
            ("Sender", "it must be one of: receiver, sender, voter; did you mean sender?"),
        ] {
            assert_eq!(read(text), problem, "{text:?}");
        }
    }
}
