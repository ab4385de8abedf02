package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestThunderbirdHabits: what Thunderbird says is what the transcripts that bear
// its name claim. If another version is installed than they were recorded
// from, a difference is only told.
func TestThunderbirdHabits(t *testing.T) {
	d := Start(t)
	tb := newThunderbird(d)
	for _, c := range []struct {
		transcript string
		play       func(*thunderbird)
	}{
		{"pop3/testdata/client-thunderbird.txt", (*thunderbird).keepsMail},
		{"pop3/testdata/client-thunderbird-delete.txt", (*thunderbird).deletesMail},
		{"pop3/testdata/client-thunderbird-top.txt", (*thunderbird).asksForHeaders},
		{"pop3/testdata/client-thunderbird-refused.txt", (*thunderbird).isRefused},
		{"pop3/testdata/client-thunderbird-clear.txt", (*thunderbird).needsTLS},
		{"smtp/testdata/client-thunderbird.txt", (*thunderbird).sendsMail},
		{"smtp/testdata/client-thunderbird-refused.txt", (*thunderbird).isNotSent},
	} {
		t.Run(strings.ReplaceAll(strings.TrimSuffix(c.transcript, ".txt"), "/testdata/", "/"), func(t *testing.T) {
			tb := tb.with(t)
			empty(t, tb.d, "alice")
			tb.pop3.forget()
			tb.submit.forget()
			tb.pop3.to(d.Addr(1, POP3), "", false)
			tb.server(`{authMethod: 3, socketType: 0, limitOfflineMessageSize: false}`)
			tb.server(`{leaveMessagesOnServer: true, headersOnly: false}`)
			c.play(tb)
			tb.compare(c.transcript)
		})
	}
	tb.quit()
}

func (tb *thunderbird) with(t *testing.T) *thunderbird {
	c := *tb
	c.d = tb.d.with(t)
	return &c
}

// server sets properties of the account's server.
func (tb *thunderbird) server(properties string) {
	tb.d.t.Helper()
	tb.run(theServer + `
		const set = ` + properties + `;
		const at = "headersOnly" in set ? server.QueryInterface(Ci.nsIPop3IncomingServer) : server;
		for (const name of Object.keys(set)) at[name] = set[name];`)
}

const theServer = `
	const {MailServices} = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
	const server = MailServices.accounts.getIncomingServer("server1");
	const inbox = server.rootFolder.getFolderWithFlags(Ci.nsMsgFolderFlags.Inbox) || server.rootFolder.getChildNamed("Inbox");
`

// fetch does what the button "Get Messages" does, and waits until the session is
// over. The error is what the user was told, or how the fetch failed.
func (tb *thunderbird) fetch() error { return tb.session(`"GetNewMail"`) }

func (tb *thunderbird) session(what string) error {
	tb.d.t.Helper()
	before := tb.pop3.count()
	got, err := tb.remote.run(theServer + `
		const window = Services.wm.getMostRecentWindow("mail:3pane").msgWindow;
		return await new Promise(done => {
			const listener = {
				QueryInterface: ChromeUtils.generateQI(["nsIUrlListener"]),
				OnStartRunningUrl() {},
				OnStopRunningUrl(url, status) { done(status.toString(16)); },
			};
			MailServices.pop3[` + what + `](window, listener, inbox, server);
		});`)
	return tb.outcome(got, err, func() bool { return tb.pop3.ended(before + 1) })
}

// password changes what is kept for one of the servers.
func (tb *thunderbird) password(origin, secret string) {
	tb.d.t.Helper()
	tb.run(theServer+`
		const [old] = await Services.logins.searchLoginsAsync({origin: args[0]});
		const login = old.clone();
		login.password = args[1];
		await Services.logins.modifyLoginAsync(old, login);
		server.forgetSessionPassword(false);
		MailServices.outgoingServer.defaultServer.password = "";`, origin, secret)
}

// deliver sends messages whose names no other case of the test may have: a message
// that is sent again is delivered once.
func (tb *thunderbird) deliver(names ...string) {
	tb.d.t.Helper()
	for _, name := range names {
		require.NoError(tb.d.t, send(tb.d.Addr(2, SMTP), "bob@example.test", []string{"alice@example.test"}, message(name)))
	}
}

// keepsMail: three messages, nothing new, one new, and one that is deleted for
// its age, by a stranger who needs STLS.
func (tb *thunderbird) keepsMail() {
	t := tb.d.t
	tb.pop3.to(tb.d.Addr(1, POP3), "127.0.0.9", false)
	tb.server(`{socketType: 2}`)
	tb.deliver("keep-1", "keep-2", "keep-3")
	require.NoError(t, tb.fetch())
	require.NoError(t, tb.fetch())
	tb.deliver("keep-4")
	require.NoError(t, tb.fetch())

	known := filepath.Join(tb.profile, "Mail", "localhost", "popstate.dat")
	lines := strings.Split(slurp(tb.d, known), "\n")
	for i, line := range lines {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "k" {
			lines[i] = strings.Join(f[:2], " ") + " " + fmt.Sprint(time.Now().Add(-20*24*time.Hour).Unix())
			break
		}
	}
	require.NoError(t, os.WriteFile(known, []byte(strings.Join(lines, "\n")), 0o600))
	tb.server(`{headersOnly: false, deleteByAgeFromServer: true, numDaysToLeaveOnServer: 14}`)
	require.NoError(t, tb.fetch())
	tb.server(`{headersOnly: false, deleteByAgeFromServer: false}`)
	require.Len(t, tb.d.listed("alice", nil), 3)
}

// deletesMail: the server goes away in a message and after a mark, mail is
// deleted as it is fetched, and later what had been kept before.
func (tb *thunderbird) deletesMail() {
	t := tb.d.t
	tb.server(`{headersOnly: false, leaveMessagesOnServer: false}`)
	tb.deliver("delete-1", "delete-2", "delete-3")
	tb.pop3.cutAt("Subject: delete-2", nil)
	require.Error(t, tb.fetch())
	tb.pop3.cutAt("message 2 marked", nil)
	require.Error(t, tb.fetch())
	require.Len(t, tb.d.listed("alice", nil), 3, "nothing is deleted without QUIT")
	require.NoError(t, tb.fetch())
	require.Empty(t, tb.d.listed("alice", nil))
	require.NoError(t, tb.fetch())

	tb.server(`{headersOnly: false, leaveMessagesOnServer: true}`)
	tb.deliver("delete-4")
	require.NoError(t, tb.fetch())
	tb.server(`{headersOnly: false, leaveMessagesOnServer: false}`)
	require.NoError(t, tb.fetch())
	require.Empty(t, tb.d.listed("alice", nil))
}

// asksForHeaders: it looks whether there is news, then fetches headers only, and
// the beginning of what is larger than it may be.
func (tb *thunderbird) asksForHeaders() {
	t := tb.d.t
	tb.deliver("top-1", "top-2")
	require.NoError(t, tb.session(`"CheckForNewMail"`))
	tb.server(`{headersOnly: true}`)
	require.NoError(t, tb.fetch())
	tb.server(`{headersOnly: false}`)
	tb.server(`{limitOfflineMessageSize: true, maxMessageSize: 1}`)
	require.NoError(t, send(tb.d.Addr(3, SMTP), "bob@example.test", []string{"alice@example.test"},
		message("top-3")+strings.Repeat("a line of thirty two octets ...\r\n", 100)))
	require.NoError(t, tb.fetch())
}

// isRefused: by another session's lock, for a wrong password, and for want of a
// mechanism that encrypts. If it could be the password that is wrong, it asks.
func (tb *thunderbird) isRefused() {
	t := tb.d.t
	tb.deliver("refused")
	other := login(t, tb.d.Addr(3, POP3), "alice", "secret")
	require.ErrorContains(t, tb.fetch(), "Login to server localhost with username alice failed")
	other.quit()
	tb.password("mailbox://localhost", "wrong")
	require.ErrorContains(t, tb.fetch(), "Login to server localhost with username alice failed")
	tb.password("mailbox://localhost", "secret")
	tb.server(`{authMethod: 4}`)
	require.ErrorContains(t, tb.fetch(), "Mail server localhost responded: unknown mechanism")
	require.Len(t, tb.d.listed("alice", nil), 1)
}

// needsTLS: without it a stranger is not let in, and reads why.
func (tb *thunderbird) needsTLS() {
	tb.pop3.to(tb.d.Addr(1, POP3), "127.0.0.9", false)
	require.ErrorContains(tb.d.t, tb.fetch(), "Mail server localhost responded: TLS is needed before a login")
}

// sendsMail: two messages on one connection, which it closes after five seconds.
func (tb *thunderbird) sendsMail() {
	t := tb.d.t
	body := "Hello\n.\n..two dots\nna\u00efve \u20ac\nFrom here on\n"
	require.NoError(t, tb.compose("x@example.net, y@example.net", "tb-first", body, false))
	require.NoError(t, tb.compose("j\u00fcrgen@example.net", "tb-second", body, true))
	tb.await("the connection is closed", func() bool { return tb.submit.ended(1) })
	for _, subject := range []string{"tb-first", "tb-second"} {
		m := tb.d.AwaitSink("Subject: " + subject + "\r\n")
		require.Contains(t, m.Message, "\r\n\r\nHello\r\n.\r\n..two dots\r\nna\u00efve \u20ac\r\n")
	}
}

// isNotSent: for a recipient that is unknown, and for a wrong password.
func (tb *thunderbird) isNotSent() {
	t := tb.d.t
	require.ErrorContains(t, tb.compose("x@example.net, nobody@example.test", "tb-refused", "", false),
		"No such user here")
	tb.password("smtp://localhost", "wrong")
	require.ErrorContains(t, tb.compose("x@example.net", "tb-wrong", "", false),
		"Login to server localhost with username alice failed")
	tb.password("smtp://localhost", "secret")
}

// compose writes and sends a message as its window does. The error is what the
// user was told, or how it failed.
func (tb *thunderbird) compose(to, subject, body string, notify bool) error {
	tb.d.t.Helper()
	before := tb.submit.count()
	got, err := tb.remote.run(theServer+`
		const [to, subject, body, notify] = args;
		const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
		fields.from = "alice@example.test";
		fields.to = to;
		fields.subject = subject;
		fields.DSN = notify;
		const send = Cc["@mozilla.org/messengercompose/send;1"].createInstance(Ci.nsIMsgSend);
		return await new Promise((done, failed) => {
			const listener = {
				QueryInterface: ChromeUtils.generateQI(["nsIMsgSendListener"]),
				onStartSending() {}, onProgress() {}, onSendProgress() {}, onStatus() {}, onGetDraftFolderURI() {},
				onStopSending(id, status) { done(status.toString(16)); },
				onSendNotPerformed() { done("not performed"); },
				onTransportSecurityError() { done("not secure"); },
			};
			send.createAndSendMessage(null, MailServices.accounts.getIdentity("id1"), "account1", fields, false, false,
				Ci.nsIMsgCompDeliverMode.Now, null, "text/plain", body, null, null, listener, "", "", Ci.nsIMsgCompType.New).catch(failed);
		});`, to, subject, body, notify)
	sent := err == nil && got == "0"
	return tb.outcome(got, err, func() bool { return sent || tb.submit.ended(before+1) })
}

// failure is the status of what its user is told of.
const failure = "80004005"

// outcome is what the user was told until an action was over: nothing, dialogs,
// each of which is dismissed, or a status. The caller gives as got the output that
// came back from its script.
func (tb *thunderbird) outcome(got string, err error, over func() bool) error {
	tb.d.t.Helper()
	var told error
	tb.await("the action is over", func() bool {
		if err == nil {
			err = tb.remote.dialog()
		}
		if err != nil {
			var dialog *remoteError
			require.True(tb.d.t, errors.As(err, &dialog) && dialog.Kind == "unexpected alert open", "%v", err)
			told, err = errors.Join(told, err), nil
			return false // another one may follow
		}
		return over() && (told != nil || got != failure)
	})
	if told == nil && got != "0" {
		return fmt.Errorf("status %s", got)
	}
	return told
}

// compare holds what was said against a transcript, and keeps it where wanted.
func (tb *thunderbird) compare(transcript string) {
	t := tb.d.t
	t.Helper()
	said := tb.pop3
	if strings.HasPrefix(transcript, "smtp/") {
		said = tb.submit
	}
	if dir := os.Getenv("RELAY_E2E_RECORD"); dir != "" {
		name := strings.ReplaceAll(transcript, "/", "-")
		require.NoError(t,
			os.WriteFile(filepath.Join(dir, name), []byte("# Thunderbird "+tb.version+"\n"+said.String()), 0o600))
	}
	data, err := os.ReadFile(filepath.Join("..", "..", transcript))
	require.NoError(t, err)
	want := commandsIn(string(data))
	got := said.commands()
	if said == tb.submit {
		got = commandsIn(asTranscript.Replace(said.String()))
	}
	for _, dialogues := range [][][]string{want, got} {
		for _, lines := range dialogues {
			for i, line := range lines {
				lines[i] = variable.ReplaceAllString(line, "$1=…")
			}
		}
	}
	switch same := fmt.Sprintf("%q", want) == fmt.Sprintf("%q", got); {
	case same:
	case strings.Contains(string(data), "Thunderbird "+tb.version):
		require.Equal(t, want, got,
			"the transcript has what this version does not say (RELAY_E2E_RECORD=DIR keeps what it says)")
	default:
		t.Logf("Thunderbird %s says other things than the transcript, which is an other version's:\n%s", tb.version, said)
	}
}

// variable is what differs from message to message.
var variable = regexp.MustCompile(`\b(SIZE|ENVID)=\S+`)

// asTranscript names the user of smtp's transcripts.
var asTranscript = strings.NewReplacer("FROM:<alice@", "FROM:<ann@",
	"C: "+base64.StdEncoding.EncodeToString([]byte("alice")), "C: YW5u",
	"AUTH PLAIN "+plain("alice", "secret"), "AUTH PLAIN "+plain("ann", "secret"), "AUTH PLAIN "+plain("alice", "wrong"),
	"AUTH PLAIN "+plain("ann", "wrong"))

func plain(user, secret string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + secret))
}
