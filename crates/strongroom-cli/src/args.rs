//! What can be asked of the command: the one place where a flag is described. Help and completions come from it.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use strongroom::persistence::{Kind, OtherTool};
use strongroom::{Dialect, DialectError, Error, KeySelector, Protection};

/// Tokens for daemons, from a cache that survives the process.
///
/// A daemon starts, asks for a token, calls an API and ends. With strongroom the next run finds the token of the
/// run before, in a file that MSAL Python, Node, Go, Java and .NET can share.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = concat!(
        "Examples:\n",
        "  See a daemon sign in once and then find its token, without a network or an account:\n",
        "    strongroom demo\n",
        "  Call an API from a shell script:\n",
        "    strongroom token --config config.json --output header |\n",
        "      curl -H @- https://graph.microsoft.com/v1.0/users\n",
        "  See what is cached:\n",
        "    strongroom inspect\n\n",
        "Exit codes:\n",
        "  0 done                            3 the identity provider refused\n",
        "  1 other failure                   4 the cache cannot be used\n",
        "  2 wrong usage or configuration    5 the network or the identity provider failed",
    ),
    arg_required_else_help = true,
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 other failure, 2 wrong usage or configuration, \
3 the identity provider refused, 4 the cache cannot be used, 5 the network or the identity provider failed.";

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Says on stderr what is going on; twice for more, three times for everything
    ///
    /// Tokens and secrets are never logged. STRONGROOM_LOG sets the levels more finely, as in
    /// `STRONGROOM_LOG=strongroom=debug,hyper=info`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// How long one call may spend on the network, a second try included
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,

    /// How long to wait for other processes that are writing to the cache
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) lock_timeout: Duration,

    /// What to print. With `json` an error is one JSON object on stdout too
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Token(Token),
    Inspect(Inspect),
    Doctor(Doctor),
    Purge(Purge),
    Key(Key),
    Migrate(Migrate),
    Demo(Demo),
    Sts(Sts),
    Completions(Completions),
}

/// Prints an application's own token: from the cache, else from the identity provider
///
/// The token alone goes to stdout. The cache is asked first; a new token is stored before it is printed, for the
/// next run and for programs in other languages.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  With a file of the kind that MSAL's own samples use:
    strongroom token --config config.json --cache token_cache.bin
  With the variables of the Azure SDKs (AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET):
    strongroom token --scope https://graph.microsoft.com/.default
  For an API, without showing the token to who lists the processes:
    strongroom token --config config.json --output header |
      curl -H @- https://graph.microsoft.com/v1.0/users
  For scripts that need to know more:
    strongroom token --config config.json --output json | jq -r .expires_on
  In a file that programs with MSAL Python and MSAL Node share:
    strongroom token --config config.json --cache token_cache.bin --persistence file --dialect python+node

config.json:
  {
    \"authority\": \"https://login.microsoftonline.com/TENANT\",
    \"client_id\": \"APPLICATION\",
    \"client_secret\": \"the secret's value\",
    \"scope\": [\"https://graph.microsoft.com/.default\"]
  }
  Optional: \"instance_discovery\" (bool), \"known_authorities\" (array of hosts), \"endpoint\", \"dialect\".
  Keep it to yourself: chmod 600 config.json

What is given as a flag wins over the file, and the file over the environment.
A secret is never taken from the command line, where every user of the machine could read it.")]
pub(crate) struct Token {
    /// Where the application is described, as JSON
    ///
    /// Its members are shown below. Without the flag $STRONGROOM_CONFIG names it. A file that nobody named is
    /// never read.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// What the token is for: RESOURCE/.default. An application asks for one resource at a time
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,

    #[command(flatten)]
    pub(crate) cache: Cache,

    #[command(flatten)]
    pub(crate) keeping: Keeping,

    /// Which languages' programs share the cache, joined with +: python+node say
    ///
    /// python, node, java, go, dotnet. MSAL Python and MSAL Node find an application's own token in no common form: for
    /// both it is stored twice, which dotnet takes for an error. With java, writers also take the lock of MSAL4J's
    /// persistence extension. go and dotnet need nothing of their own.
    ///
    /// By default what is stored already says in which form a new token is stored, and in a new cache it is that of
    /// Python. Of sealed caches other libraries read nothing, so it does not matter there.
    #[arg(long, value_name = "LANGUAGES", value_parser = DialectParser)]
    pub(crate) dialect: Option<Dialect>,

    /// Asks the identity provider even if the cache has a token
    ///
    /// And even if it refused a moment ago, unless it asked to be left alone (Retry-After).
    #[arg(long)]
    pub(crate) force_refresh: bool,

    /// Whether a token that is still good is renewed ahead of time, once the provider wants it to be
    ///
    /// The old token is printed if that fails or takes longer than 2 seconds. Near its end (5 minutes, or a fifth of
    /// its lifetime) a token is renewed in any case.
    #[arg(long, value_enum, default_value_t = Refresh::Inline, value_name = "WHEN")]
    pub(crate) refresh: Refresh,

    /// Makes it an error if the token cannot be stored for the next run
    ///
    /// Without this the token is printed all the same, with a warning on stderr.
    #[arg(long)]
    pub(crate) require_persist: bool,

    /// Trusts these certificate authorities (PEM) beside the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    // In the place of the global flag of this name.
    /// What to print. With `json` an error is one JSON object on stdout too
    #[arg(long, default_value = "token", value_name = "FORMAT",
        value_parser = value_parser!(TokenOutput).map(Output::from))]
    pub(crate) output: Output,
}

/// Lists what is cached, without the secrets
///
/// Reads every cache that an MSAL library has written, and changes nothing.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  The default cache:
    strongroom inspect
  What another program has cached, for a script:
    strongroom inspect --cache ~/.cache/app/token_cache.bin --output json | jq '.[].target'")]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) cache: Cache,

    /// Shows the tokens themselves. Who sees them can use them
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

/// Says which cache would be used and why, and whether all is well with it
///
/// Looks at everything that `token` with the same options would use: the cache, how it is kept and protected, its key,
/// permissions, locks, the file system, the clock, and entries that programs in other languages would stumble over.
/// Nothing is changed: a probe is written beside the cache and removed again. No network is needed.
///
/// Each line begins with ok, with warn (it works, and should be looked at) or with fail (it does not work, or others can
/// get at the secrets). The remedy follows in the next line.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  The default cache:
    strongroom doctor
  Before a daemon is rolled out, with the options that it will use:
    strongroom doctor --cache /var/lib/app/token_cache.bin --min-protection host-file
  What fails, for a script:
    strongroom doctor --output json | jq -r '.[] | select(.status == \"fail\") | .message'

Exit codes: 0 nothing fails, 4 something does; others as usual")]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) cache: Cache,

    #[command(flatten)]
    pub(crate) keeping: Keeping,
}

/// Removes a part of what is cached, or all of it
///
/// Works on plain and on sealed caches, those that other programs share too: entries are removed under whatever key a
/// library has stored them, and what a program in another language writes back within 90 days is removed again.
///
/// A cache that is damaged, is something else or cannot be opened is left as it is. Only --all removes one whose key is
/// lost for good, which can be told of the key of a host and of one in the kernel's keyring (keyutils), and of no other.
/// None removes anything from a JSON file that is no cache.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["expired", "client", "account", "all"]),
    after_long_help = "\
Examples:
  What can no longer be used:
    strongroom purge --expired
  Everything of an application that was retired; first only to see what that is:
    strongroom purge --client 6731de76-14a6-49ae-97bc-6eba6914391e --dry-run
    strongroom purge --client 6731de76-14a6-49ae-97bc-6eba6914391e
  A user:
    strongroom purge --account UID.UTID
  Everything, in a script:
    strongroom purge --cache /var/lib/app/token_cache.bin --all --yes --output json"
)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) cache: Cache,

    /// Access tokens that have expired, those too that are kept for a while for outages
    #[arg(long)]
    pub(crate) expired: bool,

    /// All of an application: its own tokens, those of its users, and users of whom nothing else is left
    #[arg(long, value_name = "ID")]
    pub(crate) client: Option<String>,

    /// All of a user, of every application and tenant, by the home_account_id that `inspect` shows (not the name)
    #[arg(long, value_name = "HOME_ACCOUNT_ID")]
    pub(crate) account: Option<String>,

    /// Everything, entries that no library knows and what is remembered beside the cache included
    ///
    /// An empty cache is left, so that running programs notice. What was set aside or kept earlier is named, not removed.
    #[arg(long)]
    pub(crate) all: bool,

    /// Which languages' programs share the cache. With java, their lock is taken too
    #[arg(long, value_name = "LANGUAGES", value_parser = DialectParser)]
    pub(crate) dialect: Option<Dialect>,

    /// Does not ask before everything is removed. Needed with --all where there is no terminal to ask on
    #[arg(long)]
    pub(crate) yes: bool,

    /// Only says what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Makes, lists, rotates and moves the keys that caches are sealed with
///
/// A cache is sealed with the primary key of its source; all keys of the source open. Where nothing is said, that is
/// the source that a new cache would be sealed with.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_long_help = "\
Examples:
  Which keys there are, and which one sealed a cache:
    strongroom key list --cache token_cache.bin
  A new key for this host, and two caches sealed anew with it:
    strongroom key rotate --rewrite token_cache.bin other_cache.bin
  A key for a service, handed in by systemd (LoadCredentialEncrypted=strongroom.key):
    strongroom key new | systemd-creds encrypt --name=strongroom.key - strongroom.key
  A backup:
    strongroom key export --file /media/usb/host.key"
)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    New(KeyNew),
    List(KeyList),
    Rotate(KeyRotate),
    Export(KeyExport),
    Import(KeyImport),
}

/// Makes a new key: in a key file, or as text on stdout
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  A key file, and a cache that is sealed with it:
    strongroom key new --file /etc/app/cache.key
    strongroom token --config config.json --key-source file:/etc/app/cache.key
  A key for the environment:
    export STRONGROOM_KEY=\"$(strongroom key new)\"")]
pub(crate) struct KeyNew {
    /// The key file to make, readable by its owner only. One that is there is never replaced
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,

    /// Writes to stdout even if it is a terminal
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

/// Lists keys by their ids, never the keys themselves. Makes none
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
    strongroom key list
    strongroom key list --key-source file:/etc/app/cache.key --output json | jq -r .keys[0].id
    strongroom key list --cache token_cache.bin")]
pub(crate) struct KeyList {
    #[command(flatten)]
    pub(crate) source: WhichKeys,

    /// Also tells which key this cache needs, and whether it is at hand; and looks, by default, at the source that it
    /// came from
    #[arg(long, value_name = "PATH")]
    pub(crate) cache: Option<PathBuf>,
}

/// Adds a new primary key, which seals from now on; the older ones still open
///
/// With --rewrite it is, by default, the source that sealed those caches. All of them are looked at first: nothing is
/// rotated if one cannot be opened, or if they have different sources.
///
/// Keys that are handed in from outside (env, systemd, passphrase-file) rotate where they come from, in two phases.
/// How, is told; with --rewrite what is left to do here is done.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  The key of this host:
    strongroom key rotate
  The key of these caches, which are at once sealed anew:
    strongroom key rotate --rewrite token_cache.bin /var/lib/app/token_cache.bin
  What could not be sealed anew then, without one more key:
    strongroom key rotate --no-new-key --rewrite token_cache.bin
  The last step of a rotation in two phases:
    strongroom key rotate --key-source env --rewrite token_cache.bin")]
pub(crate) struct KeyRotate {
    #[command(flatten)]
    pub(crate) source: WhichKeys,

    /// Caches to seal anew with the primary key of their source
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) rewrite: Vec<PathBuf>,

    /// Makes no key: only seals anew what is not sealed with the primary one yet. All are tried, and those that fail are
    /// listed
    #[arg(long, requires = "rewrite")]
    pub(crate) no_new_key: bool,
}

/// Writes the keys as text: a backup, or for another host. Who has it opens all that they sealed
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  A backup:
    strongroom key export --file /media/usb/host.key
  Encrypted, without a file in between:
    strongroom key export --file - | age --recipient AGE1... > host.key.age")]
pub(crate) struct KeyExport {
    #[command(flatten)]
    pub(crate) source: WhichKeys,

    /// The file to make, readable by its owner only, or - for stdout
    #[arg(long, value_name = "PATH")]
    pub(crate) file: PathBuf,

    /// Writes to stdout even if it is a terminal
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

/// Adds keys for reading, behind those that are there
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  What was sealed on another host, or before a key was lost, opens again:
    strongroom key import --file /media/usb/host.key
  Encrypted, without a file in between:
    age --decrypt --identity key.txt host.key.age | strongroom key import --file -")]
pub(crate) struct KeyImport {
    #[command(flatten)]
    pub(crate) source: WhichKeys,

    /// A file with keys, one a line, or - for stdin
    #[arg(long, value_name = "PATH")]
    pub(crate) file: PathBuf,
}

/// Which keys a command is about.
#[derive(Debug, Args)]
pub(crate) struct WhichKeys {
    /// Where the keys are: host, file:PATH, env, systemd, secret-service, keyutils or passphrase-file:PATH
    ///
    /// By default where those of the named caches came from, else where those of a new cache would be: what is
    /// configured, else this host's.
    #[arg(long, value_name = "SOURCE", value_parser = key_source())]
    pub(crate) key_source: Option<KeySelector>,
}

/// Keeps a cache otherwise, sealed or in plain text; or takes over another tool's tokens
///
/// What was written is read back and compared before anything is replaced or removed. Whatever goes wrong, the cache is
/// there as it was.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  Seal a cache that was kept in plain text, in the best way that this machine has:
    strongroom migrate --cache token_cache.bin --to sealed
  Open it again, for programs in other languages:
    strongroom migrate --cache token_cache.bin --to file
  From the desktop's Secret Service to a key for cron:
    strongroom migrate --cache token_cache.bin --to sealed --key-source host
  Into the desktop's Secret Service, which leaves a signal file at the new place:
    strongroom migrate --cache token_cache.bin --to secret-service --new-location desktop_cache.bin
  To another place, and keep the old one:
    strongroom migrate --cache token_cache.bin --new-location /var/lib/app/token_cache.bin --keep
  Take over who is signed in with the Azure CLI; its own cache stays as it is:
    strongroom migrate --cache token_cache.bin --import azure-cli")]
pub(crate) struct Migrate {
    /// The cache. By default $STRONGROOM_CACHE, else that in the user's cache folder
    #[arg(long, value_name = "PATH")]
    pub(crate) cache: Option<PathBuf>,

    /// How the cache is to be kept. By default as auto says; with --import, and at a new location, as it is kept already
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) to: Option<Persistence>,

    /// Where the cache is to be kept. By default where it is
    #[arg(long, value_name = "PATH")]
    pub(crate) new_location: Option<PathBuf>,

    /// Keeps the old cache: where it was, or beside the new one
    #[arg(long)]
    pub(crate) keep: bool,

    /// Where the key is that the cache is to be sealed with. By default what is configured, else this host's
    ///
    /// Where only a new location is given, it is the source that the cache has already.
    ///
    /// host, file:PATH, env, systemd, secret-service, keyutils or passphrase-file:PATH.
    #[arg(long, value_name = "SOURCE", value_parser = key_source())]
    pub(crate) key_source: Option<KeySelector>,

    /// Where the key is that the cache is sealed with now, if it cannot tell itself: a passphrase's file
    #[arg(long, value_name = "SOURCE", value_parser = key_source())]
    pub(crate) from_key_source: Option<KeySelector>,

    /// How the cache is kept now, if it cannot tell itself: an item of a keyring that does not answer
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) from_persistence: Option<Persistence>,

    /// Refuses to keep the cache protected less well than this
    #[arg(long, value_enum, default_value_t = MinProtection::None, value_name = "LEVEL")]
    pub(crate) min_protection: MinProtection,

    /// Adds what another tool has cached, which is only read. What the cache has already stays
    ///
    /// Only what has expired is replaced, and a refresh token by one that is known to be newer. An access token that
    /// would last for more than 30 hours is refused: none does.
    #[arg(long, value_enum, value_name = "NAME", conflicts_with_all = ["new_location", "keep", "from_key_source", "from_persistence"])]
    pub(crate) import: Option<OtherToolName>,

    /// Where the other tool's cache is, if not where the tool keeps it by default
    ///
    /// Its file; of a cache in a keyring, the path of its signal file (~/.IdentityService/NAME). azure-cli: its folder.
    #[arg(long, value_name = "PATH", requires = "import")]
    pub(crate) from: Option<PathBuf>,
}

/// The tools whose caches can be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OtherToolName {
    /// azure-identity for Python
    AzureIdentityPy,
    /// @azure/identity for JavaScript
    AzureIdentityJs,
    /// azidentity for Go
    AzidentityGo,
    /// The Azure CLI
    AzureCli,
}

impl From<OtherToolName> for OtherTool {
    fn from(name: OtherToolName) -> Self {
        match name {
            OtherToolName::AzureIdentityPy => Self::AzureIdentityPython,
            OtherToolName::AzureIdentityJs => Self::AzureIdentityJavaScript,
            OtherToolName::AzidentityGo => Self::AzidentityGo,
            OtherToolName::AzureCli => Self::AzureCli,
        }
    }
}

/// Shows a daemon that signs in once and then finds its token, offline
///
/// Starts a local identity provider on a free port of the loopback interface, runs a small daemon several times
/// as a process of its own, and shows where each run got its token from. Nothing is left behind.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
    strongroom demo
    strongroom demo --runs 10 --output json")]
pub(crate) struct Demo {
    /// How often the daemon runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,

    /// The daemon itself: its configuration, its cache, the trust root
    #[arg(long, hide = true, num_args = 3, value_names = ["CONFIG", "CACHE", "CA"])]
    pub(crate) daemon: Option<Vec<PathBuf>>,
}

/// Runs a local identity provider for development, until it is interrupted
///
/// It speaks Microsoft Entra ID's protocol over TLS, on the loopback interface only, with a certificate authority
/// of its own. Its tokens are worth nothing elsewhere. NOT for production.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  In one terminal:
    strongroom sts --state ./sts
  In another, with what the first one printed:
    strongroom token --config ./sts/config.json --ca-file ./sts/ca.pem --cache ./token_cache.bin")]
pub(crate) struct Sts {
    /// The port to listen on; by default a free one
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(crate) port: u16,

    /// The tenant of a new provider: a GUID, or a domain name
    #[arg(long)]
    pub(crate) tenant: Option<String>,

    /// Where the provider keeps its keys and its clients; the same folder gives the same provider again. By
    /// default a folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// Prints a script that teaches a shell to complete this command
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
    strongroom completions bash > ~/.local/share/bash-completion/completions/strongroom
    strongroom completions zsh > ~/.zfunc/_strongroom
    strongroom completions fish > ~/.config/fish/completions/strongroom.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Where a cache is, and where its key is.
#[derive(Debug, Args)]
pub(crate) struct Cache {
    /// Where the cache is. By default the user's cache folder
    ///
    /// $STRONGROOM_CACHE, else $XDG_CACHE_HOME/strongroom/token_cache.bin, else
    /// ~/.cache/strongroom/token_cache.bin.
    #[arg(long = "cache", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,

    /// Where the key of a sealed cache is. By default what sealed it, else what is configured, else this host's
    ///
    /// host: a key file that is made at first use in this host's state folder.
    /// file:PATH: a key file ($STRONGROOM_KEY_FILE).
    /// env: the variable $STRONGROOM_KEY.
    /// systemd: the credential strongroom.key.
    /// secret-service: the desktop's Secret Service.
    /// keyutils: the kernel's keyring, gone at reboot.
    /// passphrase-file:PATH: a file with a passphrase.
    #[arg(long, value_name = "SOURCE", value_parser = key_source(), verbatim_doc_comment)]
    pub(crate) key_source: Option<KeySelector>,
}

/// How a cache is kept.
#[derive(Debug, Args)]
pub(crate) struct Keeping {
    /// How the cache is kept
    #[arg(long, value_enum, default_value_t = Persistence::Auto, value_name = "KIND")]
    pub(crate) persistence: Persistence,

    /// Refuses a cache that is protected less well than this
    #[arg(long, value_enum, default_value_t = MinProtection::None, value_name = "LEVEL")]
    pub(crate) min_protection: MinProtection,

    /// Keeps the cache in plain text, with a warning, where it cannot be encrypted or is plain already
    #[arg(long)]
    pub(crate) fallback_to_plaintext: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Persistence {
    /// Encrypted, in the best way that this machine has without any set-up
    Auto,
    /// A plain file, readable by its owner only: the one that all MSAL libraries share
    File,
    /// A file that is sealed with a key of Strongroom's
    Sealed,
    /// An item of the desktop's Secret Service: that of msal-extensions' LibsecretPersistence with the absolute path
    SecretService,
    /// A file that Windows encrypts: that of msal-extensions' FilePersistenceWithDataProtection
    Dpapi,
    /// An item of the macOS keychain: that of msal-extensions' KeychainPersistence
    Keychain,
}

impl From<Persistence> for Kind {
    fn from(persistence: Persistence) -> Self {
        match persistence {
            Persistence::Auto => Self::Auto,
            Persistence::File => Self::File,
            Persistence::Sealed => Self::Sealed,
            Persistence::SecretService => Self::SecretService,
            Persistence::Dpapi => Self::Dpapi,
            Persistence::Keychain => Self::Keychain,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Refresh {
    /// Before the token is printed, for 2 seconds at most
    Inline,
    /// Not ahead of time
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MinProtection {
    /// Plain text will do
    None,
    /// Encrypted, with a key on this host
    HostFile,
    /// Encrypted, with a key that was handed in
    ProvidedKey,
    /// In the operating system's secret store
    OsStore,
}

impl From<MinProtection> for Protection {
    fn from(least: MinProtection) -> Self {
        match least {
            MinProtection::None => Self::None,
            MinProtection::HostFile => Self::HostFile,
            MinProtection::ProvidedKey => Self::ProvidedKey,
            MinProtection::OsStore => Self::OsStore,
        }
    }
}

/// What a result, and an error, is printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
    /// What only `token` can print.
    #[value(skip)]
    Header,
}

/// How `token` names the formats.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenOutput {
    /// The token alone
    Token,
    /// One JSON object: the token, its times, its source, where it is cached
    Json,
    /// A header line: Authorization: Bearer TOKEN
    Header,
}

impl From<TokenOutput> for Output {
    fn from(output: TokenOutput) -> Self {
        match output {
            TokenOutput::Token => Self::Text,
            TokenOutput::Json => Self::Json,
            TokenOutput::Header => Self::Header,
        }
    }
}

/// Reads a key source as the library spells it.
fn key_source() -> impl TypedValueParser<Value = KeySelector> {
    StringValueParser::new().try_map(|text| {
        text.parse::<KeySelector>().map_err(|error: Error| {
            let remedy = error.remedy().map_or_else(String::new, |remedy| format!("; {remedy}"));
            format!("{error}{remedy}")
        })
    })
}

/// Reads a dialect as the library spells it, in whatever order, and has shells complete the usual spellings.
#[derive(Debug, Clone)]
struct DialectParser;

impl TypedValueParser for DialectParser {
    type Value = Dialect;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Dialect, clap::Error> {
        let read = |text: String| {
            text.parse().map_err(|error: DialectError| {
                let error = Error::from(error);
                format!("{error}; {}", error.remedy().unwrap_or_default())
            })
        };
        StringValueParser::new().try_map(read).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Dialect::ALL.into_iter().map(|dialect| PossibleValue::new(dialect.as_str()))))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= Duration::from_secs(86_400) => Ok(duration),
        _ => Err("a number of seconds between 0 and 86400 is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_description_of_the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_format_counts_before_and_after_the_command() {
        for (line, expected) in [
            ("strongroom token", Output::Text),
            ("strongroom token --output token", Output::Text),
            ("strongroom token --output header", Output::Header),
            ("strongroom token --output json", Output::Json),
            ("strongroom --output json token", Output::Json),
            ("strongroom --output json token --output header", Output::Header),
            ("strongroom inspect", Output::Text),
            ("strongroom inspect --output json", Output::Json),
            ("strongroom --output json inspect", Output::Json),
            ("strongroom --output json completions bash", Output::Json),
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(arguments.global.output, expected, "{line}");
            if let Command::Token(options) = arguments.command {
                assert_eq!(options.output, expected, "{line}");
            }
        }
        for line in ["strongroom inspect --output header", "strongroom --output header token"] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["-1", "1e9", "NaN", "inf", "", "ten"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
