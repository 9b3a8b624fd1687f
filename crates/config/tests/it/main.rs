// SPDX-License-Identifier: Apache-2.0
//! The configuration as a caller sees it.

mod errors;
mod layers;
mod reference;
mod render;
mod routes;

use std::path::PathBuf;

use atomix_config::{Error, Loaded, Loader, Problem};

/// A directory with one configuration file, and the path to call it by.
struct ConfigFile {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        Self { path, _directory: directory }
    }

    fn load(&self) -> Result<Loaded, Error> {
        Loader::new().file(&self.path).load()
    }
}

fn load_yaml(text: &str) -> Result<Loaded, Error> {
    ConfigFile::new("atomix.yaml", text).load()
}

fn load_toml(text: &str) -> Result<Loaded, Error> {
    ConfigFile::new("atomix.toml", text).load()
}

/// Loads YAML that is refused, and returns the messages with the directory left out of the file's name.
fn refused(text: &str) -> Vec<String> {
    let file = ConfigFile::new("atomix.yaml", text);
    let directory = format!("{}/", file.path.parent().expect("a directory").display());
    let error = file.load().expect_err(text);
    error.problems().iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
}

fn only(error: &Error) -> &Problem {
    assert_eq!(error.problems().len(), 1, "{error}");
    &error.problems()[0]
}
