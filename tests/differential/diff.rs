//! The differences between two lists of lines.

enum Step<'a> {
    Same(&'a str),
    Theirs(&'a str),
    Ours(&'a str),
}

/// Only the lines that differ: nginx's with `-`, ours with `+`. If the statuses differ, only the status
/// lines: the rest is not expected to be equal.
pub fn changed(theirs: &[String], our: &[String]) -> Vec<String> {
    if let ([their_status, ..], [our_status, ..]) = (theirs, our)
        && their_status.starts_with("HTTP/1.1 ")
        && our_status.starts_with("HTTP/1.1 ")
        && their_status != our_status
    {
        return vec![format!("-{their_status}"), format!("+{our_status}")];
    }
    let differing = |step| match step {
        Step::Same(_) => None,
        Step::Theirs(line) => Some(format!("-{line}")),
        Step::Ours(line) => Some(format!("+{line}")),
    };
    steps(theirs, our).into_iter().filter_map(differing).collect()
}

/// All lines; those that differ begin with their sign.
pub fn whole(theirs: &[String], our: &[String]) -> String {
    let line = |step| match step {
        Step::Same(line) => format!("  {line}\n"),
        Step::Theirs(line) => format!("- {line}\n"),
        Step::Ours(line) => format!("+ {line}\n"),
    };
    steps(theirs, our).into_iter().map(line).collect()
}

/// By the longest common subsequence; the lists are responses, so they are short.
fn steps<'a>(theirs: &'a [String], our: &'a [String]) -> Vec<Step<'a>> {
    let mut common = vec![vec![0_usize; our.len() + 1]; theirs.len() + 1];
    for i in (0..theirs.len()).rev() {
        for j in (0..our.len()).rev() {
            common[i][j] = match theirs[i] == our[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < theirs.len() || j < our.len() {
        if i < theirs.len() && j < our.len() && theirs[i] == our[j] {
            out.push(Step::Same(&theirs[i]));
            i += 1;
            j += 1;
        } else if j == our.len() || (i < theirs.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push(Step::Theirs(&theirs[i]));
            i += 1;
        } else {
            out.push(Step::Ours(&our[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split('|').map(str::to_owned).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        assert_eq!(changed(&lines("a|b|c"), &lines("a|b|c")), [""; 0]);
        assert_eq!(changed(&lines("a|b|c"), &lines("a|x|c|d")), ["-b", "+x", "+d"]);
        let (theirs, our) = (lines("HTTP/1.1 200 OK|a"), lines("HTTP/1.1 400 Bad Request|b"));
        assert_eq!(changed(&theirs, &our), ["-HTTP/1.1 200 OK", "+HTTP/1.1 400 Bad Request"]);
        assert_eq!(whole(&lines("a|b"), &lines("b|c")), "- a\n  b\n+ c\n");
    }
}
