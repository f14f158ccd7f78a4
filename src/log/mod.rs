//! The error log (nginx's line format) and the access log's writer.
