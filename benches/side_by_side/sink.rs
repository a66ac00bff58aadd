//! Takes the log of a proxy that writes none itself, and writes it to a file.

use std::fs::File;
use std::io;
use std::net::TcpListener;

use crate::Result;

/// Serves until the process is ended.
pub(crate) fn run(address: &str, file: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    let file = File::create(file)?;
    for stream in listener.incoming() {
        let (mut stream, mut file) = (stream?, file.try_clone()?);
        std::thread::spawn(move || io::copy(&mut stream, &mut file));
    }
    Ok(())
}
