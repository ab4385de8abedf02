package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// thunderbirdWithin bounds each test with Thunderbird.
const thunderbirdWithin = 90 * time.Second

// thunderbird is the mail program with a profile of its own, whose one account
// is alice's. The recorders are its servers.
type thunderbird struct {
	d            *Dev
	ctx          context.Context
	profile      string
	settings     map[string]any
	cmd          *exec.Cmd
	ended        chan struct{}
	remote       *marionette
	version      string
	pop3, submit *recorder
}

// newThunderbird starts the program and has it keep the passwords and the
// cluster's authority in its profile.
func newThunderbird(d *Dev) *thunderbird {
	need(d.t, "thunderbird")
	ctx, cancel := context.WithTimeout(d.t.Context(), thunderbirdWithin)
	d.t.Cleanup(cancel)
	tb := &thunderbird{d: d, ctx: ctx, profile: filepath.Join(d.t.TempDir(), "profile"),
		pop3: d.record(d.Addr(1, POP3)), submit: d.record(d.Addr(1, Submission))}
	require.NoError(d.t, os.MkdirAll(filepath.Join(tb.profile, "home"), 0o700))
	tb.settings = maps.Clone(thunderbirdProfile)
	tb.settings["mail.server.server1.port"] = json.Number(tb.pop3.port)
	tb.settings["mail.smtpserver.smtp1.port"] = json.Number(tb.submit.port)
	tb.start()
	data, err := os.ReadFile(d.CA())
	require.NoError(d.t, err)
	block, _ := pem.Decode(data)
	require.NotNil(d.t, block)
	tb.run(`
		for (const origin of ["mailbox://localhost", "smtp://localhost"]) {
			const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
			login.init(origin, null, origin, "alice", "secret", "", "");
			await Services.logins.addLoginAsync(login);
		}
		Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB).addCertFromBase64(args[0], "CTu,,");
	`, base64.StdEncoding.EncodeToString(block.Bytes))
	tb.version = tb.run("return Services.appinfo.version")
	return tb
}

// thunderbirdProfile is what a user would have answered, and no strangers on the
// network.
var thunderbirdProfile = map[string]any{
	"marionette.port": 0, "remote.prefs.recommended": false,
	"mail.accountmanager.accounts": "account1,account2", "mail.accountmanager.defaultaccount": "account1",
	"mail.accountmanager.localfoldersserver": "server2", "mail.account.account1.identities": "id1",
	"mail.account.account1.server": "server1", "mail.account.account2.server": "server2",
	"mail.identity.id1.useremail": "alice@example.test", "mail.identity.id1.smtpServer": "smtp1",
	"mail.identity.id1.valid": true, "mail.identity.id1.fcc": false,
	"mail.server.server1.type": "pop3", "mail.server.server1.hostname": "localhost",
	"mail.server.server1.userName":        "alice",
	"mail.server.server1.name":            "alice",
	"mail.server.server1.storeContractID": "@mozilla.org/msgstore/berkeleystore;1",
	"mail.server.server1.authMethod":      3, "mail.server.server1.socketType": 0,
	"mail.server.server1.leave_on_server": true,
	"mail.server.server1.check_new_mail":  false, "mail.server.server1.login_at_startup": false,
	"mail.server.server1.download_on_biff": true,
	"mail.server.server2.type":             "none", "mail.server.server2.hostname": "Local Folders",
	"mail.server.server2.userName": "nobody",
	"mail.smtpservers":             "smtp1", "mail.smtp.defaultserver": "smtp1", "mail.smtpserver.smtp1.type": "smtp",
	"mail.smtpserver.smtp1.hostname": "localhost", "mail.smtpserver.smtp1.username": "alice",
	"mail.smtpserver.smtp1.authMethod": 3, "mail.smtpserver.smtp1.try_ssl": 2,
	"network.dns.disableIPv6": true, "network.manage-offline-status": false,
	"network.captive-portal-service.enabled": false, "network.connectivity-service.enabled": false,
	"app.update.auto": false, "extensions.update.enabled": false, "extensions.systemAddon.update.enabled": false,
	"services.settings.server": "data:,", "toolkit.telemetry.enabled": false,
	"datareporting.policy.dataSubmissionEnabled": false, "datareporting.healthreport.uploadEnabled": false,
	"mail.provider.suppress_dialog_on_startup": true, "mail.spotlight.firstRunDone": true, "mail.rights.version": 1,
	"mail.shell.checkDefaultClient": false, "mail.inappnotifications.enabled": false, "mailnews.start_page.enabled": false,
}

// start runs the program with the settings as they are.
func (tb *thunderbird) start() {
	t := tb.d.t
	t.Helper()
	var prefs strings.Builder
	for _, name := range slices.Sorted(maps.Keys(tb.settings)) {
		value, err := json.Marshal(tb.settings[name])
		require.NoError(t, err)
		fmt.Fprintf(&prefs, "user_pref(%q, %s);\n", name, value)
	}
	require.NoError(t, os.WriteFile(filepath.Join(tb.profile, "user.js"), []byte(prefs.String()), 0o600))
	active := filepath.Join(tb.profile, "MarionetteActivePort")
	_ = os.Remove(active)
	began := time.Now()
	cmd := exec.Command("thunderbird", "--headless", "--no-remote", "--profile", tb.profile, "--marionette",
		"--remote-allow-system-access")
	home := filepath.Join(tb.profile, "home")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home,
		"MOZ_CRASHREPORTER_DISABLE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	tb.cmd, tb.ended = cmd, ended
	t.Cleanup(func() { // its children, too
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	var port []byte
	tb.await("Thunderbird can be steered", func() bool {
		port, _ = os.ReadFile(active)
		return len(port) > 0
	})
	tb.await("Thunderbird takes a session", func() (ok bool) {
		var err error
		tb.remote, err = dialMarionette(tb.ctx, strings.TrimSpace(string(port)))
		return err == nil
	})
	t.Logf("Thunderbird was up after %s", seconds(time.Since(began)))
}

// quit ends the program as its menu does.
func (tb *thunderbird) quit() {
	t := tb.d.t
	t.Helper()
	_, err := tb.remote.call("Marionette:Quit", map[string]any{"flags": []string{"eForceQuit"}})
	require.NoError(t, err)
	select {
	case <-tb.ended:
	case <-tb.ctx.Done():
		t.Fatal("Thunderbird does not quit")
	}
	_ = tb.remote.conn.Close()
}

func (tb *thunderbird) await(what string, done func() bool) {
	tb.d.t.Helper()
	end, _ := tb.ctx.Deadline()
	tb.d.Await(time.Until(end), what, func() bool {
		select {
		case <-tb.ended:
			tb.d.t.Fatalf("Thunderbird ended before: %s", what)
		default:
		}
		return done()
	})
}

// run is marionette's run, which must succeed.
func (tb *thunderbird) run(script string, args ...any) string {
	tb.d.t.Helper()
	got, err := tb.remote.run(script, args...)
	require.NoError(tb.d.t, err)
	return got
}

func (tb *thunderbird) inbox() string {
	return filepath.Join(tb.profile, "Mail", "localhost", "Inbox")
}

// stored are the messages in the inbox file by unique id, without what the file
// adds to each.
func (tb *thunderbird) stored() map[string]string {
	t := tb.d.t
	t.Helper()
	text := slurp(tb.d, tb.inbox())
	all := map[string]string{}
	for _, m := range mboxFrom.Split(text, -1)[1:] {
		found := mboxFields.FindStringSubmatch(m)
		require.NotNil(t, found, "%.300s", m)
		_, twice := all[found[1]]
		require.False(t, twice, "message %s is stored twice, after\n%v", found[1], tb.pop3.commands())
		body := strings.TrimSuffix(strings.TrimSuffix(m[len(found[0]):], "\n"), "\r") // an empty line of the file's
		all[found[1]] = mboxQuoted.ReplaceAllString(body, "$1")
	}
	return all
}

var (
	mboxFrom   = regexp.MustCompile(`(?m)^From .*\n`)
	mboxFields = regexp.MustCompile(`^X-Account-Key: .*\nX-UIDL: (.*)\n(?:X-Mozilla-.*\n)*`)
	mboxQuoted = regexp.MustCompile(`(?m)^>(>*From )`)
)

// awkward are messages that a mailbox file, a line-based protocol or a text
// reader could change.
func awkward() (all []string) {
	every := make([]byte, 0, 256)
	for b := 1; b < 256; b++ {
		if b != '\r' && b != '\n' {
			every = append(every, byte(b))
		}
	}
	bodies := []string{
		".\r\n..\r\n...\r\n", "From here\r\n>From there\r\n>>From anywhere\r\nFrom - Thu Nov 26 16:32:45 2026\r\n",
		"\r\n\r\n\r\n", "",
		string(every) + "\r\n", strings.Repeat("x", 990) + "\r\n", " leading\r\ntrailing \r\n\t\r\n",
		"+OK\r\n-ERR [IN-USE]\r\n+ \r\n. \r\n",
		"X-UIDL: 1\r\nX-Mozilla-Status: 0001\r\n", strings.Repeat("A line like many others.\r\n", 20_000),
	}
	for i, body := range bodies {
		all = append(all, fmt.Sprintf("From: bob@example.test\r\nTo: alice@example.test\r\nSubject: awkward %d\r\n"+
			"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <%d@example.test>\r\n\r\n%s", i, i, body))
	}
	return append(all, message("hard"))
}

// TestThunderbirdFetches: Thunderbird, which keeps mail on the server and knows
// it by its unique ids, is started again and again and meets another node each
// time, in the clear, by STLS and on TLS. It has every message once, octet by
// octet, and at last has the server delete them.
func TestThunderbirdFetches(t *testing.T) {
	d := Start(t)
	began := time.Now()
	tb := newThunderbird(d)
	tb.quit()
	tb.settings["mail.server.server1.login_at_startup"] = true
	uids := map[string]string{} // and what the server has
	for i, step := range []struct {
		name     string
		node     int
		service  int
		security int // nsMsgSocketType
		leave    bool
		mail     []string
	}{
		{"many", 1, POP3, 0, true, awkward()},
		{"nothing new", 3, POP3, 2, true, nil},
		{"some new", 2, POP3S, 3, true, []string{message("new-1"), message("new-2")}},
		{"deleting", 3, POP3, 0, false, []string{message("last")}},
	} {
		for k, m := range step.mail {
			require.NoError(t, send(d.Addr(k%3+1, SMTP), "bob@example.test", []string{"alice@example.test"}, m))
		}
		fresh := d.listed("alice", uids)
		require.Len(t, fresh, len(step.mail), step.name)
		maps.Copy(uids, fresh)
		tb.settings["mail.server.server1.socketType"] = step.security
		tb.settings["mail.server.server1.leave_on_server"] = step.leave
		tb.pop3.forget()
		tb.pop3.to(d.Addr(step.node, step.service), "", step.service == POP3S)
		tb.start()
		tb.await("the mail is fetched", func() bool { return tb.pop3.ended(1) })
		tb.quit()
		said := tb.pop3.commands()
		require.Len(t, said, 1, "%s: one session\n%s", step.name, tb.pop3)
		require.Equal(t, len(step.mail), countPrefix(said[0], "RETR "), "%s: nothing is fetched twice", step.name)
		require.Equal(t, step.security == 2, slices.Contains(said[0], "STLS"), step.name)
		require.Equal(t, "QUIT", said[0][len(said[0])-1], step.name)
		got := tb.stored()
		require.Len(t, got, len(uids), step.name)
		for uid, want := range uids {
			require.True(t, got[uid] == want,
				"%s: message %s\nfrom the server: %.3000q\nstored:          %.3000q", step.name, uid, want, got[uid])
		}
		t.Logf("%d: %s, after %s", i, step.name, seconds(time.Since(began)))
	}
	require.Empty(t, d.listed("alice", nil), "all are deleted")
}

// listed fetches the messages of a mailbox that are not known yet, by unique id.
func (d *Dev) listed(user string, known map[string]string) map[string]string {
	d.t.Helper()
	p := login(d.t, d.Addr(1, POP3), user, "secret")
	defer p.quit()
	fresh := map[string]string{}
	for n := p.count(); n > 0; n-- {
		uid := strings.Fields(p.say(fmt.Sprintf("UIDL %d", n)))[2]
		if _, ok := known[uid]; !ok {
			fresh[uid] = p.retr(n)
		}
	}
	return fresh
}

func countPrefix(lines []string, prefix string) (n int) {
	for _, line := range lines {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}
