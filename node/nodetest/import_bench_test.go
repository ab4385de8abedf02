package nodetest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// BenchmarkImport puts old messages of 1 KiB into a mailbox of three nodes, in
// batches as relayctl makes them; an operation is a message.
func BenchmarkImport(b *testing.B) {
	c := New(b, Options{})
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	var res *admin.ImportResult
	b.ResetTimer()
	for at := 0; at < b.N; {
		end := min(at+1000, b.N)
		o := admin.ImportOptions{}
		if res != nil {
			o.Line = res.Line
		}
		var err error
		res, err = api.ImportMail(b.Context(), by, "alice@example.test", o, func() (*admin.OldMessage, error) {
			if at == end {
				return nil, io.EOF
			}
			at++
			text := fmt.Sprintf("Subject: %d\r\n\r\n%s", at,
				strings.Repeat("a line of text, to make it as long as mail is\r\n", 20))
			sum := sha256.Sum256([]byte(text))
			return &admin.OldMessage{Digest: sum[:], UIDL: fmt.Sprint("old-", at), Content: strings.NewReader(text)}, nil
		})
		require.NoError(b, err)
		require.Nil(b, res.Stopped)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
