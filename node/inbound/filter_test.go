package inbound

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/mailheader"
	"relay/node/milter"
)

// A header section whose end is not at hand, cut inside a field's name: the rest
// of it must not pass for the body.
func TestFilterSeesWholeHeader(t *testing.T) {
	for text, want := range map[string]error{
		"Subject: s\r\nX-Hid":        replyFilterHeader,
		"Subject: s\r\nX-Hid: x":     replyFilterHeader,
		"Subject: s\r\n\r":           replyFilterHeader,
		"Subject: s\r\n\r\n":         nil,
		"Subject: s\r\n\r\nX-Hid: x": nil,
	} {
		in := &intake{
			env:  &envelope{filter: new(milter.Transaction)},
			body: body{buf: []byte(text), head: mailheader.Parse([]byte(text))},
		}
		got := in.beginFilter(t.Context())
		if want == nil {
			require.NoError(t, got, "%q", text)
			continue
		}
		require.ErrorIs(t, got, want, "%q", text)
	}
}
