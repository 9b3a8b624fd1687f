// SPDX-License-Identifier: Apache-2.0
//! Values that a command takes from its arguments, from standard input or from a file.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;

use crate::failure::Failure;
use crate::text::show;

/// Returns a value as it was given on the command line: what follows is read from standard input for `-`, from a file for
/// `@FILE`, byte for byte.
pub(crate) fn read_value(argument: &str) -> Result<Bytes, Failure> {
    // Twice what a gRPC message may have by default: no larger value can be stored.
    const BYTES_MAX: u64 = 8 << 20;
    let (source, input): (String, Box<dyn Read>) = match (argument, argument.strip_prefix('@')) {
        ("-", _) => ("standard input".to_owned(), Box::new(io::stdin().lock())),
        (_, Some(path)) => {
            let file = File::open(path).map_err(|error| unreadable(path, &error))?;
            (format!("file {path}"), Box::new(file))
        }
        (text, None) => return Ok(Bytes::copy_from_slice(text.as_bytes())),
    };
    let mut value = Vec::new();
    let read = input.take(BYTES_MAX + 1).read_to_end(&mut value);
    let read = read.map_err(|error| unreadable(&source, &error))?;
    if read as u64 > BYTES_MAX {
        return Err(Failure::Usage(format!(
            "the value is too large: source=`{source}` bytes_max=`{BYTES_MAX}`"
        )));
    }
    Ok(Bytes::from(value))
}

fn unreadable(source: &str, error: &io::Error) -> Failure {
    Failure::Files(format!(
        "cannot read the value: source=`{}` cause=`{error}`; --literal takes a value that begins with @ as it is",
        show(source.as_bytes())
    ))
}

/// Reads JSON from the command line, from standard input for `-`, or from a file for `@FILE`.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(argument: &str) -> Result<T, Failure> {
    let text = read_value(argument)?;
    serde_json::from_slice(&text).map_err(|error| Failure::Usage(format!("JSON is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_from_the_line_or_from_a_file() {
        let file = std::env::temp_dir().join(format!("atomix-value-{}", std::process::id()));
        std::fs::write(&file, b"a\xff\n").unwrap();
        assert_eq!(read_value(&format!("@{}", file.display())).unwrap(), &b"a\xff\n"[..]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read_value("a@b").unwrap(), "a@b");
        let missing = read_value(&format!("@{}", file.display())).unwrap_err();
        assert!(missing.to_string().contains("--literal"), "{missing}");
    }
}
