// Package dane judges a mail host's certificate by its TLSA records (RFC 6698, RFC 7671), in the way that RFC 7672
// prescribes for SMTP. It asks nobody: the records come from the caller, who knows that DNSSEC secured them.
package dane
