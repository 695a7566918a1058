//! Codes of what this side finds by itself, beside the wire's; `spile errors` explains both.

use crate::failure::Exit;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LocalCode {
    /// As printed.
    pub(crate) name: &'static str,
    /// Who is at fault.
    pub(crate) class: &'static str,
    /// Why it happens.
    pub(crate) cause: &'static str,
    /// What to do.
    pub(crate) remedy: &'static str,
    /// What the shell is told.
    pub(crate) exit: Exit,
}

macro_rules! local_codes {
    ($($constant:ident $name:literal $class:literal $exit:ident $cause:literal $remedy:literal)*) => {
        $(#[doc = $cause]
        pub(crate) static $constant: LocalCode =
            LocalCode { name: $name, class: $class, cause: $cause, remedy: $remedy, exit: Exit::$exit };)*
        /// All of them.
        pub(crate) static ALL: &[&LocalCode] = &[$(&$constant),*];
    };
}

local_codes! {
    USAGE "usage" "your request" Usage
        "The command, a flag or a value is not one of those that are known, or they do not go together."
        "See `spile help` and the command's own --help."
    CONTEXT "context" "your request" Usage
        "There is no context file, or it is not one: where the server is and who you are is not known."
        "Start `spiled` in this folder, or name a context with --context or SPILE_CONTEXT."
    FILE "file" "your request" Failed
        "A file could not be read or written."
        "Check its name, its rights and the space on its disk."
    UNREACHABLE "unreachable" "our side" Unreachable
        "Nobody answers at the server's address, or the connection broke."
        "Check the address and that `spiled` runs; `spile doctor` shows how far it gets."
    UNTRUSTED "untrusted" "your right" Refused
        "The server's certificate is not signed by the authority in the context, is out of date, names another host, or the server speaks another protocol."
        "Check `ca` in the context and the host's name in the URL; `spile doctor` shows the chain."
    TENANT "tenant" "your right" Refused
        "The credential is of another tenant than the one asked for with --tenant or in the context; nothing was sent."
        "Use a credential of that tenant, or say the tenant the credential is of."
    TIMED_OUT "timed-out-here" "our side" Unreachable
        "The command was not done within --timeout."
        "Give it more time, or look at `spile doctor`; an event that was sent may have been stored."
    CLOSED "closed" "your request" Failed
        "The connection was closed from this side."
        "Try again."
    CHILD "child" "your request" Failed
        "The command of --exec or --pipe could not be run, ended before its time, or answered in other words than agreed."
        "Run it by hand, and see the command's --help for what it is given and what it answers."
    ANSWER "answer" "our side" Failed
        "The server's answer is not of the form this command knows."
        "Use a spile and a spiled of the same version."
    DOCTOR "unhealthy" "our side" Failed
        "At least one check found something bad."
        "See the remedies above."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_local_code_has_a_name_of_the_wires() {
        for code in ALL {
            assert_eq!(spile_protocol::code::Code::find(code.name), None, "{}", code.name);
            assert_eq!(ALL.iter().filter(|other| other.name == code.name).count(), 1);
        }
    }
}
