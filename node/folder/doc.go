// Package folder shows a folder of .eml files as a list of messages that can be
// read and not be changed. A message's unique id is made of its file's name and
// content, so it is the same wherever the same file lies, and is never that of
// another content; its size is that of what is sent, with CRLF line ends. The words of
// a client never become part of a path.
package folder
