//! The built-in rules, as a table. A policy file's rules have the same form.

use spile_protocol::id::Role;

use super::{Action, Principal, Resource};

/// Which keys a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// The principal's own name.
    Own,
    /// Any that does not begin with `$`; all of them, where no one is named.
    Plain,
    /// One that is named and does not begin with `$`.
    OnePlain,
    /// Any, the bus's own included.
    Any,
}

/// Which names a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Any that does not begin with `$`, which is the bus's own.
    Plain,
    /// A plain one that is not empty.
    Given,
    /// `device/` and the principal's own name.
    Own,
    /// Any that is not empty.
    AnyGiven,
    /// Any.
    Any,
}

/// What a role may do to what. Rules only allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    role: Role,
    actions: &'static [Action],
    keys: Keys,
    names: Names,
}

impl Rule {
    pub(super) fn allows(&self, who: Principal<'_>, action: Action, on: Resource<'_>) -> bool {
        self.role == who.role
            && self.actions.contains(&action)
            && self.keys.hold(who, on.key)
            && self.names.hold(who, on.name)
    }
}

impl Keys {
    fn hold(self, who: Principal<'_>, key: Option<&str>) -> bool {
        match self {
            Self::Own => key == Some(who.name),
            Self::Plain => key.is_none_or(is_plain),
            Self::OnePlain => key.is_some_and(is_plain),
            Self::Any => true,
        }
    }
}

impl Names {
    fn hold(self, who: Principal<'_>, name: &str) -> bool {
        match self {
            Self::Plain => is_plain(name),
            Self::Given => is_plain(name) && !name.is_empty(),
            Self::Own => name.strip_prefix("device/") == Some(who.name),
            Self::AnyGiven => !name.is_empty(),
            Self::Any => true,
        }
    }
}

/// What begins with `$` is the bus's own.
fn is_plain(name: &str) -> bool {
    !name.starts_with('$')
}

const OWN_KEY: &[Action] =
    &[Action::Publish, Action::Subscribe, Action::Stream, Action::StateGet, Action::Upload];
const WRITE: &[Action] = &[Action::Publish, Action::Upload];
const READ: &[Action] = &[
    Action::Subscribe,
    Action::Stream,
    Action::Consume,
    Action::StateGet,
    Action::List,
    Action::Download,
];

const fn write(name: &'static str, role: Role) -> Rule {
    Rule { name, role, actions: WRITE, keys: Keys::OnePlain, names: Names::Plain }
}

const fn read(name: &'static str, role: Role) -> Rule {
    Rule { name, role, actions: READ, keys: Keys::Plain, names: Names::Plain }
}

const fn services(name: &'static str, role: Role) -> Rule {
    Rule {
        name,
        role,
        actions: &[Action::Call, Action::Serve],
        keys: Keys::Any,
        names: Names::Given,
    }
}

/// Nobody publishes under `$`, an operator neither: what stands there is what the bus itself did.
pub(super) const BUILT_IN: &[Rule] = &[
    Rule {
        name: "device: own key",
        role: Role::Device,
        actions: OWN_KEY,
        keys: Keys::Own,
        names: Names::Plain,
    },
    Rule {
        name: "device: call services",
        role: Role::Device,
        actions: &[Action::Call],
        keys: Keys::Any,
        names: Names::Given,
    },
    Rule {
        name: "device: serve itself",
        role: Role::Device,
        actions: &[Action::Serve],
        keys: Keys::Any,
        names: Names::Own,
    },
    write("user: write the tenant", Role::User),
    read("user: read the tenant", Role::User),
    services("user: services", Role::User),
    write("service: write the tenant", Role::Service),
    read("service: read the tenant", Role::Service),
    services("service: services", Role::Service),
    write("operator: write the tenant", Role::Operator),
    Rule {
        name: "operator: read all",
        role: Role::Operator,
        actions: READ,
        keys: Keys::Any,
        names: Names::Any,
    },
    Rule {
        name: "operator: call all",
        role: Role::Operator,
        actions: &[Action::Call],
        keys: Keys::Any,
        names: Names::AnyGiven,
    },
    services("operator: services", Role::Operator),
];
