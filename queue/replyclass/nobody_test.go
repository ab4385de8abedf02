package replyclass

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNobody: what is said of the message, the sender or the hour is said of no address, whatever its code.
func TestNobody(t *testing.T) {
	var none *Table
	for _, reply := range []string{
		"550 5.1.1 <x@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
		"550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's " +
			"email address for typos or unnecessary spaces.",
		"550 5.1.6 recipient no longer on server: x@icloud.com", "550 5.2.1 The account is disabled",
		"550 5.2.1 The email account that you tried to reach is inactive.", "550 No such user here", "550 user unknown",
		"553 sorry, no mailbox here by that name. (#5.7.1)", "550 5.1.1 <sender@spam.example>... User unknown",
		"554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0]",
	} {
		require.Equal(t, BadAddress, Of(reply), reply)
		require.True(t, none.Nobody(reply), reply)
	}
	for _, reply := range []string{
		"", "250 2.0.0 Ok", "5.1.1 there is no such user any more", "450 4.1.1 user unknown",
		"550 5.1.1 <a@example.com>: Sender address rejected: User unknown in virtual mailbox table",
		"551 user not local; please authenticate", "551 User not local; please try <other@example.net>",
		"553 5.1.3 invalid sender", "550 5.2.1 mailbox disabled for this message", "550 5.1.10 recipient not found", "556",
		"550 5.4.1 Recipient address rejected: Access denied", "550 5.4.1 Access denied", "551", "553",
		"550 5.1.1 unverified address: Address verification in progress", "550 5.1.0 Address rejected.",
		"550 5.7.1 <x@example.com>: Recipient unknown", "550 Requested action not taken: mailbox unavailable",
		"550 5.1.2 no such user", "550 5.1.1 user unknown, blocked by policy", "550 5.2.1 no mail from outside",
		"550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents it",
	} {
		require.False(t, none.Nobody(reply), reply)
	}
	site, err := Parse([]string{"policy 550 5.1.1 go away", "bad_address 550 5.7.1 gone"})
	require.NoError(t, err)
	require.False(t, site.Nobody("550 5.1.1 go away"), "the site knows better")
	require.False(t, site.Nobody("550 5.7.1 gone"))
}
