//! NumPy's array file format, version 1.0, for a float32 matrix: a header of one line, then the values.
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::io::{self, Write};

/// Writes the header of a `[rows, columns]` float32 array; the values follow it, little-endian, row by row.
pub fn write_header(out: &mut dyn Write, rows: u64, columns: usize) -> io::Result<()> {
    let description = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // Magic, version and length take 10 bytes; spaces and a newline bring the whole header to a multiple of 64.
    let padded = (10 + description.len() + 1).next_multiple_of(64) - 10;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&u16::try_from(padded).map_err(io::Error::other)?.to_le_bytes())?;
    writeln!(out, "{description:<width$}", width = padded - 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn header_is_aligned_and_ends_in_a_newline() {
        let mut header = Vec::new();
        super::write_header(&mut header, 12_345, 768).unwrap();
        assert_eq!(header.len() % 64, 0);
        assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
        assert_eq!(header.last(), Some(&b'\n'));
        assert!(String::from_utf8_lossy(&header).contains("'shape': (12345, 768), }"));
    }
}
