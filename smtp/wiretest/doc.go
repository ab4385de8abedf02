// Package wiretest plays a written dialogue against a line-based server and
// reports the first line that differs.
//
// A transcript is a text file. Each line begins with a mark that says who
// speaks; empty lines and lines that begin with # are comments.
//
//	C: text      the client sends text and CRLF
//	C< text      the client sends text as it is, without CRLF; escapes apply
//	S: pattern   the server must send a line that matches; CRLF must end it
//	S*: pattern  the server's lines are skipped up to one that matches
//	S< text      the server must send exactly these octets; escapes apply
//	=== verb …   a directive, see below
//
// All that the client sends is collected and written at once before the next
// expectation or directive, so that several C lines in a row are pipelined in
// the full sense. Nothing but the next expected line is read: a server that
// says more than the transcript shows fails the next expectation, and what is
// unread at the end of the transcript is an error (see eof and end).
//
// # Patterns
//
// A pattern is literal text, except that text between two tildes is a regular
// expression (package regexp), that ~~ is one tilde, and that a pattern which
// ends in "..." matches any line with that beginning:
//
//	S: 250 2.0.0 Ok: queued as ~[0-9A-Z]{26}~
//	S: 220 mx.example.com ESMTP...
//
// A named group sets a variable: after "S: +OK ~(?P<uid>\d+)~ listed" the text
// ${uid} stands for what was seen, in the client's lines and in patterns.
// Variables may also be handed in by the test (Player.Vars). An unknown ${name}
// is an error; $$ is one dollar sign.
//
// # Escapes
//
// In C< and S< lines: \r \n \t \0 \\ \s (a space) and \xHH; \*N(text) stands
// for N times the text, which may hold escapes but no closing parenthesis.
//
// # Directives
//
//	=== connect [NAME]  opens a connection and makes it the current one; the
//	                    first connection is opened without being asked
//	=== use NAME        makes another open connection the current one; the
//	                    first one is called "1"
//	=== starttls        the client's TLS handshake on the current connection
//	=== badtls          as starttls, but the handshake must fail
//	=== eof             the server must close the connection, saying no more
//	=== close           the client closes the connection
//	=== shut            the client closes its half of the connection
//	=== silent D        the server must say nothing for the duration D
//	=== call NAME ARGS  calls a function of the test (Player.Calls)
//	=== set NAME VALUE  an option for the test; read before the play from
//	                    Script.Options, no effect while playing
//	=== end             whatever the server says from here on does not matter
package wiretest
