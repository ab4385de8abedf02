package mailheader

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFieldsAreReadUnfolded(t *testing.T) {
	for text, want := range map[string]string{
		"Message-ID: <a@b>\r\n\r\n":                               "a@b",
		"Message-ID:\r\n <a@b>\r\n\r\n":                           "a@b",
		"Message-ID:\r\n\t<a@b>\r\nDate: x\r\n\r\n":               "a@b",
		"message-id :\r\n \r\n\t <a@b> (comment)\r\n\r\n":         "a@b",
		"Subject: s\r\nMessage-ID:\r\n <a\r\n @b>\r\n\r\ntext":    "a@b",
		"Message-ID:\r\n <a@b>":                                   "a@b",
		"Subject: s\r\nMessage-ID: <a@b>":                         "a@b",
		"Message-ID: plain\r\n\r\n":                               "plain",
		"Message-ID:\r\n\r\n":                                     "",
		"X: y\r\n Message-ID: <a@b>\r\n\r\n":                      "",
		"Subject: s\r\n\r\nMessage-ID: <a@b>\r\n":                 "",
		"Message-ID:\r\nMessage-ID:\r\n <second@b>\r\n\r\n":       "second@b",
		"Message-ID: <first@b>\r\nMessage-ID: <second@b>\r\n\r\n": "first@b",
	} {
		require.Equal(t, want, Parse([]byte(text)).MessageID, "%q", text)
	}
	require.True(t, Parse([]byte("Message-ID:\r\n\r\n")).ID)
	require.False(t, Parse([]byte("Message-Id2: <a@b>\r\n\r\n")).ID)
	h := Parse([]byte("Delivered-To:\r\n Alice@Example.TEST\r\nDelivered-To: " +
		"<bob@example.test>\r\nReceived: a\r\n" +
		" b\r\nreceived:\r\n c\r\n\r\n"))
	require.Equal(t, []string{"alice@example.test", "bob@example.test"}, h.Delivered)
	require.Equal(t, 2, h.Hops)
	require.True(t, h.Whole)
}
