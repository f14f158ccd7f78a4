//! The command line: nginx's short flags, glued ones too, then long options.
