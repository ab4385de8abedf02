// Package smtp speaks both sides of SMTP and knows nothing about where mail
// goes. A Server turns what a client says into calls of a Session that the
// caller provides; a Client hands one message at a time to a next hop and
// brings back one Reply for each recipient. See DESIGN.md.
package smtp
