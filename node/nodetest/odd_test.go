package nodetest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFormsOfSubmittedFields: on submission a message gets no second From, Date or Message-ID,
// in whatever form it has its own.
func TestFormsOfSubmittedFields(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	name := regexp.MustCompile(`(?im)^(date|from|message-id)[ \t]*:`)
	for i, fields := range []string{
		"FROM:\r\n\tAlice\r\n <alice@example.test>\r\nDATE :\r\n Tue, 1 Dec 2026 00:00:00 +0000\r\n" +
			"Message-ID\t:\r\n\t<%d@x>\r\n",
		"from\t: (c) alice@example.test\r\nDate:\r\n \r\n\tTue, 1 Dec 2026\r\n 00:00:00 +0000\r\nmessage-ID:<%d@x>\r\n",
		"From:\r\n alice@\r\n example.test\r\ndate:\r\nMESSAGE-ID: %d\r\n",
		"From: =?utf-8?Q?Al=0D=0AX?= <alice@example.test>\r\nDate: x\r\nMessage-ID: <%d@x>\r\n",
		"From: alice@example.test (\r\n a\r\n )\r\nDate:\r\nMessage-ID: (\r\n) <%d@x>\r\n",
		"Subject: x\r\n From: y\r\n\tDate: y\r\nDate: z\r\nFrom: alice@example.test\r\nMessage-ID:\r\n\t\r\n %d\r\n",
	} {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw(fmt.Sprintf(fields, i) + "\r\nx\r\n.\r\n")
		d.play("S: 250")
		head, _, _ := strings.Cut(c.last("bob@example.test"), "\r\n\r\n")
		require.Len(t, name.FindAllString(head, -1), 3, "%q", head)
	}
}
