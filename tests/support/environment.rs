//! The present environment of a process. `/proc/PID/environ` shows the memory from its start, which a process
//! gives up when it sets a title, so libc's `environ` is looked up and followed in the process's memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The variables as `NAME=value`; `None` if this user may not read the process's memory.
pub fn environment(pid: i32) -> Option<Vec<String>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let libc = maps.lines().find(|line| line.contains("/libc.so") || line.contains("/libc-"))?;
    let base = u64::from_str_radix(libc.split('-').next()?, 16).ok()?;
    let path = libc.split_whitespace().last()?;
    let offset = symbol(&std::fs::read(path).ok()?, "environ")?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut place = number_at(&memory, base + offset)?;
    let mut found = Vec::new();
    loop {
        match number_at(&memory, place)? {
            0 => return Some(found),
            string => found.push(text_at(&memory, string)?),
        }
        place += 8;
    }
}

fn number_at(memory: &File, place: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, place).ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn text_at(memory: &File, place: u64) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, place + text.len() as u64).ok()?;
        if byte == [0] {
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte[0]);
    }
}

/// The value of a dynamic symbol in a 64-bit little-endian ELF file (elf(5)).
fn symbol(file: &[u8], wanted: &str) -> Option<u64> {
    const DYNSYM: u64 = 11;
    let field = |at: usize, width: usize| -> Option<u64> {
        let bytes = file.get(at..at + width)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let (sections, size, count) =
        (field(0x28, 8)? as usize, field(0x3a, 2)? as usize, field(0x3c, 2)? as usize);
    let section = |index: usize| sections + index * size;
    let dynsym = (0..count).map(section).find(|&at| field(at + 4, 4) == Some(DYNSYM))?;
    let names = section(field(dynsym + 0x28, 4)? as usize);
    let names = field(names + 0x18, 8)? as usize;
    let (start, bytes) = (field(dynsym + 0x18, 8)? as usize, field(dynsym + 0x20, 8)? as usize);
    let is_wanted = |&at: &usize| {
        let name = field(at, 4).map_or(0, |offset| names + offset as usize);
        file.get(name..name + wanted.len() + 1) == Some([wanted.as_bytes(), b"\0"].concat().as_slice())
    };
    let found = (start..start + bytes).step_by(24).find(is_wanted)?;
    field(found + 8, 8)
}
