package mailfile

import "bytes"

// CRLF returns a message as a maildrop keeps it: with CRLF line ends, also at its
// end. A CR that stands alone is left as it is. content is returned where nothing
// is to be changed, and never written.
func CRLF(content []byte) []byte {
	end := ""
	switch {
	case len(content) == 0, bytes.HasSuffix(content, []byte("\n")):
	case bytes.HasSuffix(content, []byte("\r")):
		end = "\n"
	default:
		end = "\r\n"
	}
	bare := bytes.Count(content, []byte("\n")) - bytes.Count(content, []byte("\r\n"))
	if bare == 0 && end == "" {
		return content
	}
	out := make([]byte, 0, len(content)+bare+len(end))
	for line := range bytes.Lines(content) {
		if n := len(line); line[n-1] == '\n' && (n == 1 || line[n-2] != '\r') {
			out = append(append(out, line[:n-1]...), "\r\n"...)
			continue
		}
		out = append(out, line...)
	}
	return append(out, end...)
}
