package sasl

import (
	"bytes"
	"encoding/base64"
	"errors"
)

// ErrBase64 says that a line is not base64.
var ErrBase64 = errors.New("sasl: not base64")

// Encode appends a challenge or a response as SMTP and POP3 carry it (RFC 4954 section 4, RFC 5034 section 4).
func Encode(dst, data []byte) []byte { return base64.StdEncoding.AppendEncode(dst, data) }

// EncodeInitial encodes a response that stands in the AUTH command, where one without octets is "=".
func EncodeInitial(response []byte) string {
	if len(response) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(response)
}

// Decode reads a challenge or a response. It takes nothing but base64, no line ends in it, and no bits behind the last
// octet; the error is ErrBase64. The result is never nil where there is no error.
func Decode(line []byte) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(out, line)
	if err != nil || bytes.ContainsAny(line, "\r\n") { // which the decoder skips
		return nil, ErrBase64
	}
	return out[:n], nil
}

// DecodeInitial is Decode for a response that stands in the AUTH command, where "=" is one without octets.
func DecodeInitial(text []byte) ([]byte, error) {
	if string(text) == "=" {
		return []byte{}, nil
	}
	return Decode(text)
}
