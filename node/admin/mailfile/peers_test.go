package mailfile

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// readers are programs that read mbox files, by the subjects that they find; "-" is
// a message without one.
func readers() map[string]func(t *testing.T, file string) []string {
	return map[string]func(t *testing.T, file string) []string{
		"relay": byRelay, "dovecot": byDovecot, "s-nail": byNail, "python": byPython,
	}
}

// TestPeersReadTheSameFiles holds the table of DESIGN.md to what the peers do. It
// runs as root, where RELAY_E2E is set, with the peers that are installed.
func TestPeersReadTheSameFiles(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to ask other programs")
	}
	for _, c := range []struct{ file, relay, dovecot, nail, python string }{
		{"m01-noblank.mbox", "one two", "one two", "one", "one two"},
		{"m03-bom.mbox", "one two", "", "two", "two"},
		{"m05-mboxcl2.mbox", "one two", "one two", "one two", "one - two"},
		{"m07-cr.mbox", "one two", "", "", "-"},
		{"m09-tbdeleted.mbox", "kept", "kept deleted", "kept deleted", "kept deleted"},
		{"m19-fromtime-in-text.mbox", "one two", "one two", "one two", "one - two"},
		{"e5-from.eml", "eml", "eml", "eml", "eml -"},
	} {
		want := map[string]string{"relay": c.relay, "dovecot": c.dovecot, "s-nail": c.nail, "python": c.python}
		for name, reader := range readers() {
			t.Run(c.file+"/"+name, func(t *testing.T) {
				require.Equal(t, strings.Fields(want[name]), reader(t, filepath.Join("testdata/import", c.file)))
			})
		}
	}
}

// TestPeersReadTheSameForms asks the same programs about forms that are no file of another
// program: each of them is read as two of the three read it, or as Dovecot does where it is
// a matter of Content-Length or of a date that lacks something.
func TestPeersReadTheSameForms(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to ask other programs")
	}
	head, last := fromLine+one+"\n", "\n"+fromLine+"Subject: last\n\nx\n"
	length := func(n int, body string) string {
		return fromLine + fmt.Sprintf("Subject: one\nContent-Length: %d\n\n", n) + body
	}
	inner := "text\n\n" + fromLine + "Subject: in\n\nx\n"
	for name, c := range map[string]struct{ box, relay, dovecot, nail, python string }{
		"words behind the date": {head + "From a@b Thu Feb  1 10:00:00 2024 by x\n" + two + last,
			"one two last", "one two last", "one two last", "one two last"},
		"no sender, no header": {head + "From Thu Feb  1 10:00:00 2024\nwe meet.\n" + last,
			"one last", "one last", "one last", "one - last"},
		"no header": {head + fromLine + "we meet.\n" + last, "one - last", "one - last", "one last", "one - last"},
		"no date":   {head + "From a@b\n" + two + last, "one last", "one last", "one two last", "one two last"},
		"length ends at a bare line": {length(5, "text\n\nFrom \nNote it.\n") + last,
			"one last", "one last", "one last", "one - last"},
		"length ends at many empty lines": {length(5, "text\n"+strings.Repeat("\n", 1500)+"x\n") + last,
			"one last", "one last", "one last", "one last"},
		"length covers a message": {length(len(inner), inner) + last, "one last", "one last", "one in last", "one in last"},
		"length too short":        {length(5, inner) + last, "one in last", "one in last", "one in last", "one in last"},
		"length too long":         {length(9999, "x\n") + last, "one last", "one last", "one last", "one last"},
		"a mark in the text":      {fromLine + "\nX-Mozilla-Status: 0008\n" + last, "- last", "- last", "last", "- last"},
	} {
		file := filepath.Join(t.TempDir(), "inbox")
		write(t, file, c.box)
		want := map[string]string{"relay": c.relay, "dovecot": c.dovecot, "s-nail": c.nail, "python": c.python}
		for peer, reader := range readers() {
			t.Run(name+"/"+peer, func(t *testing.T) {
				require.Equal(t, strings.Fields(want[peer]), reader(t, file))
			})
		}
	}
}

// firstWord is what tells a subject from the others here.
func firstWord(subject string) string {
	if words := strings.Fields(subject); len(words) > 0 {
		return words[0]
	}
	return "-"
}

func byRelay(t *testing.T, file string) []string {
	all := []string{}
	require.NoError(t, Read(context.Background(), file, Options{}, func(m Message) error {
		one, err := mail.ReadMessage(bytes.NewReader(m.Content))
		if err != nil { // it has no header
			one = &mail.Message{}
		}
		all = append(all, firstWord(one.Header.Get("Subject")))
		return nil
	}))
	return all
}

// ask runs a peer and returns what it writes.
func ask(t *testing.T, stdin string, env []string, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TERM=dumb", "LC_ALL=C.UTF-8"}, env...)
	out, err := cmd.Output() // what a peer can not read is an answer, too
	require.NoError(t, ctx.Err(), "%v", err)
	return string(out)
}

// copyOf makes a copy in a folder that everybody may use, since peers write.
func copyOf(t *testing.T, file string) (dir string) {
	dir, err := os.MkdirTemp("/tmp", "relay-peers-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "m"), data, 0o666))
	require.NoError(t, os.Chmod(filepath.Join(dir, "m"), 0o666))
	return dir
}

func byDovecot(t *testing.T, file string) []string {
	if os.Getuid() != 0 {
		t.Skip("doveadm changes its user")
	}
	dir := copyOf(t, file)
	conf := filepath.Join(dir, "conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `base_dir = %[1]s/run
log_path = %[1]s/log
ssl = no
mail_location = mbox:%[1]s/mail:INBOX=%[1]s/m
first_valid_uid = 0
first_valid_gid = 0
mail_uid = nobody
mail_gid = nogroup
`, dir), 0o644))
	env := []string{"USER=nobody", "HOME=" + dir}
	return subjects(ask(t, "", env, "doveadm", "-c", conf, "fetch", "hdr.subject", "all"), `(?m)^hdr\.subject:(.*)$`)
}

func byNail(t *testing.T, file string) []string {
	dir := copyOf(t, file)
	script := "set headline='<%70s>'\nfrom *\nxit\n"
	out := ask(t, script, []string{"HOME=" + dir},
		"s-nail", "-n", "-R", "-Sv15-compat", "-Snoheader", "-f", filepath.Join(dir, "m"))
	return subjects(out, `(?m)^<(.*)>$`)
}

func byPython(t *testing.T, file string) []string {
	script := "import mailbox, sys\n" +
		"for m in mailbox.mbox(sys.argv[1], create=False): print('<%s>' % (m['subject'] or ''))\n"
	return subjects(ask(t, script, nil, "python3", "-", filepath.Join(copyOf(t, file), "m")), `(?m)^<(.*)>$`)
}

func subjects(out, pattern string) []string {
	all := []string{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(out, -1) {
		all = append(all, firstWord(m[1]))
	}
	return all
}
