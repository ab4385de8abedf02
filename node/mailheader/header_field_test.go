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
		"Message-ID: (was <old@b>) (\\) <x@b>)\r\n <a@b>\r\n\r\n": "a@b",
		"Message-ID: (<x@b> and\r\n (<y@b>)) <a@b>\r\n\r\n":       "a@b",
		"Message-ID: (no end <a@b>\r\n\r\n":                       "a@b",
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

// TestDeliveredToIsReadUnfolded: a mailbox that a message has been in is known in whatever
// form the field has.
func TestDeliveredToIsReadUnfolded(t *testing.T) {
	for value, want := range map[string]string{
		" alice@example.test": "alice@example.test", "\talice@example.test \t": "alice@example.test",
		"\r\n \r\n\t<Alice@EXAMPLE.test>": "alice@example.test", "\r\n alice\r\n\t@example.test": "alice@example.test",
		" (to) alice@example.test":                       "alice@example.test",
		" alice@example.test (by\r\n fetchmail)":         "alice@example.test",
		" (a (nested) \\) one)\r\n <alice@example.test>": "alice@example.test",
		" \"a (b) c\"@example.test":                      `"a (b) c"@example.test`,
		"":                                               "", " ": "", " ()": "", " (": "", " <>": "",
	} {
		for _, name := range []string{"Delivered-To:", "DELIVERED-to:", "delivered-to \t:"} {
			h := Parse([]byte("X: y\r\n" + name + value + "\r\nZ: z\r\n\r\n"))
			require.Equal(t, []string{want}, h.Delivered, "%q", name+value)
		}
	}
	for _, text := range []string{
		"X-Delivered-To: a@b\r\n\r\n", "X: y\r\n Delivered-To: a@b\r\n\r\n", "\r\nDelivered-To: a@b\r\n",
		" Delivered-To: a@b\r\nX: y\r\n\r\n", "no field\r\nDelivered-To: a@b\r\n\r\n",
	} {
		require.Empty(t, Parse([]byte(text)).Delivered, "%q", text)
	}
}
