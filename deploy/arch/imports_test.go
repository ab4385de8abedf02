package arch

import (
	"encoding/json"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "relay/"

// layers says which packages of this module a package may import: an import
// points only downwards. A change that adds a package adds a line, and with it a
// decision. "dir/..." stands for a folder with everything in it.
func layers() map[string][]string {
	state := []string{"cluster/spool", "cluster/spool/spoolpb"}
	return map[string][]string{
		"cmd/relayd": {"node", "node/config", "node/admin", "cluster", "smtp",
			"cmd/internal/release", "cmd/internal/wording"},
		"cmd/relayctl/table":    {"node/admin"},
		"cmd/relayctl/limits":   {"cmd/relayctl/table", "node/admin", "queue/limit", "queue/site"},
		"cmd/relayctl/link":     {"cmd/internal/listener", "node/admin"},
		"cmd/relayctl/smtptalk": {"cmd/internal/wording", "node/admin", "smtp/sasl"},
		"cmd/relayctl/danger":   {"cmd/internal/wording", "node/admin"},
		"cmd/relayctl": {"cmd/relayctl/danger", "cmd/relayctl/limits", "cmd/relayctl/link",
			"cmd/relayctl/smtptalk", "cmd/relayctl/table",
			"node/admin", "node/admin/mailfile",
			"smtp/mailaddr", "smtp/sasl", "smtp/printable",
			"cmd/internal/release", "cmd/internal/timespan", "cmd/internal/wording"},
		"cmd/internal/listener": {},
		"cmd/internal/release":  {},
		"cmd/internal/timespan": {},
		"cmd/internal/wording":  {},
		"node/events":           append([]string{"node/admin"}, state...),
		"node": append([]string{"node/config", "node/events", "node/doctor", "node/admin", "node/verify",
			"node/directory", "node/dkimkey", "node/inbound", "node/limits", "node/login", "node/maildrop",
			"node/operator", "node/operator/edit", "node/operator/records", "node/outbound",
			"node/replica", "node/statelog", "node/tlscert", "queue", "queue/remote", "queue/remote/mtasts",
			"queue/remote/tlsrpt", "queue/remote/webguard", "node/tlsreport", "queue/replyclass",
			"cluster", "cluster/disk", "smtp", "smtp/sasl", "smtp/printable", "pop3"}, state...),
		"node/directory": append([]string{"node/srs", "smtp/mailaddr"}, state...),
		"node/srs":       {"smtp/mailaddr"},
		"node/login": append([]string{"node/directory", "node/replica", "smtp", "smtp/mailaddr", "smtp/sasl",
			"smtp/admission", "smtp/printable", "pop3", "cluster"}, state...),
		"node/mailheader": {"node/directory", "smtp/printable"},
		"node/inbound": append([]string{"node/config", "node/directory", "node/login", "node/mailheader", "node/milter",
			"node/plan", "node/replica", "node/rule", "node/srs", "node/statelog", "node/tlscert", "node/verify", "node/wording",
			"queue", "queue/bounce", "cluster",
			"smtp", "smtp/mailaddr", "smtp/sasl", "smtp/admission", "smtp/printable", "pop3"}, state...),
		"node/dkimkey": state,
		"node/operator": append([]string{"node/operator/edit", "node/operator/ids", "node/operator/inspect",
			"node/operator/records", "node/admin", "node/directory",
			"node/mailheader", "node/plan", "node/replica", "node/routing", "node/rule", "node/statelog", "node/wording",
			"queue",
			"queue/bounce", "queue/replyclass", "queue/retry", "cluster", "smtp/mailaddr", "smtp/printable",
			"cluster/disk"}, state...), // the last one for tests
		"node/operator/ids": {"cluster/spool"},
		"node/operator/inspect": append([]string{"node/operator/ids", "node/admin", "node/replica",
			"node/statelog"}, state...),
		"node/operator/edit": append([]string{"node/admin", "node/replica", "node/routing", "node/rule", "node/wording",
			"cluster",
			"smtp/printable"}, state...),
		"node/operator/records": append([]string{"node/operator/edit", "node/admin", "node/directory", "node/dkimkey",
			"node/login", "node/replica", "node/routing", "node/rule", "node/wording", "smtp/mailaddr", "smtp/printable",
			"queue/bounce", "queue/limit", "queue/remote", "queue/remote/oauth",
			"queue/replyclass", "queue/retry", "queue/site"}, state...),
		"node/maildrop": append([]string{"node/config", "node/directory", "node/folder", "node/login", "node/replica",
			"node/statelog", "cluster", "pop3", "smtp/sasl"}, state...),
		"node/rule":    append([]string{"node/directory"}, state...),
		"node/routing": append([]string{"node/directory", "node/srs"}, state...),
		"node/outbound": append([]string{"node/directory", "node/dkimkey", "node/mailheader", "node/plan", "node/replica",
			"node/routing", "node/rule", "node/srs", "node/statelog", "queue", "queue/remote",
			"queue/remote/mtasts", "queue/remote/webguard",
			"queue/replyclass", "queue/retry", "cluster", "smtp/printable"}, state...),
		"node/plan":     append([]string{"node/directory", "node/replica", "queue", "queue/bounce"}, state...),
		"node/statelog": append([]string{"node/admin"}, state...),
		"node/replica":  append([]string{"cluster/rounds"}, state...),
		"node/tlscert": append([]string{"node/config", "node/directory", "node/replica",
			"node/wording"}, state...),
		"node/tlsreport": append([]string{"node/replica", "queue/remote/tlsrpt", "queue/remote/webguard",
			"smtp/printable"}, state...),
		"node/wording":        {},
		"node/config":         {"smtp/sasl"},
		"node/admin":          {"smtp/printable"},
		"node/doctor":         {},
		"node/milter":         {"smtp", "smtp/printable"},
		"node/verify":         {"node/mailheader", "smtp/printable"},
		"node/admin/mailfile": {},
		"node/folder":         {"pop3"},
		"node/limits":         {"queue/limit", "queue/remote", "queue/site"},
		"queue":               {"queue/bounce", "queue/limit", "queue/readyq", "queue/replyclass", "queue/retry"},
		"queue/limit":         {},
		"queue/site":          {},
		"queue/readyq":        {},
		"queue/replyclass":    {},
		"queue/retry":         {"queue/replyclass"},
		"queue/bounce":        {"smtp/printable"},
		"queue/remote": {"queue", "queue/limit", "queue/remote/dane", "queue/remote/mtasts", "queue/remote/tlsrpt",
			"queue/remote/oauth",
			"queue/replyclass",
			"smtp", "smtp/sasl", "smtp/printable"},
		"queue/remote/mtasts":   {"queue/remote/webguard", "smtp/printable"},
		"queue/remote/webguard": {},
		"queue/remote/tlsrpt":   {},
		"queue/remote/dane":     {},
		"queue/remote/oauth":    {},
		"cluster": append([]string{"cluster/clock", "cluster/datadir", "cluster/disk",
			"cluster/disk/log", "cluster/diverge", "cluster/fault", "cluster/internal/...", "cluster/liveness",
			"cluster/members",
			"cluster/pki", "cluster/propose", "cluster/rounds", "cluster/secret", "cluster/session", "cluster/transport",
			"cluster/tuning"}, state...),
		"cluster/fault":  {},
		"cluster/tuning": {},
		"cluster/clock":  append([]string{"cluster/tuning"}, state...),
		"cluster/pki":    append([]string{"cluster/fault", "cluster/internal/..."}, state...),
		"cluster/datadir": append([]string{"cluster/disk", "cluster/disk/log", "cluster/fault",
			"cluster/internal/...", "cluster/pki", "cluster/tuning"}, state...),
		"cluster/members": append([]string{"cluster/datadir", "cluster/internal/..."}, state...),
		"cluster/transport": {"cluster/datadir", "cluster/disk/log", "cluster/fault", "cluster/members", "cluster/tuning",
			"cluster/internal/...", "cluster/pki"}, // the last one for tests
		"cluster/propose": append([]string{"cluster/clock", "cluster/fault", "cluster/members", "cluster/tuning",
			"cluster/internal/..."}, state...),
		"cluster/session": append([]string{"cluster/clock", "cluster/liveness", "cluster/propose", "cluster/tuning",
			"cluster/fault"}, state...), // the last one for tests
		"cluster/diverge": append([]string{"cluster/clock", "cluster/datadir", "cluster/disk", "cluster/fault",
			"cluster/tuning"}, state...),
		"cluster/disk":              append([]string{"cluster/disk/log"}, state...),
		"cluster/disk/log":          {},
		"cluster/liveness":          {"cluster/spool/spoolpb"},
		"cluster/rounds":            {},
		"cluster/secret":            {"cluster/datadir", "cluster/fault"},
		"cluster/spool":             {"cluster/spool/spoolpb"},
		"cluster/spool/spoolpb":     {},
		"cluster/internal/protogen": {},
		"cluster/internal/...":      {"cluster/internal/...", "cluster/spool/spoolpb"},
		"smtp":                      {"smtp/mailaddr", "smtp/sasl", "smtp/admission", "smtp/printable"},
		"smtp/mailaddr":             {"smtp/printable"},
		"smtp/sasl":                 {},
		"smtp/admission":            {},
		"smtp/printable":            {},
		"pop3":                      {"smtp/sasl", "smtp/admission", "smtp/printable"},
		"deploy":                    {"node/config"},
		"deploy/bench": {"node/admin", "node/config", "smtp", "smtp/sasl", "pop3", "deploy/bench/preload",
			"deploy/bench/cgroup", "deploy/bench/stage", "deploy/bench/realmail"},
		"deploy/bench/cgroup": {},
		"deploy/bench/stage":  {},
		"deploy/bench/preload": {
			"cluster/datadir", "cluster/disk", "cluster/spool", "cluster/spool/spoolpb", "cluster/tuning",
		},
		"deploy/bench/realmail": {},
		"deploy/...":            {"node/admin", "node/config", "smtp", "smtp/sasl", "pop3"},
	}
}

// leaves are the packages that stay usable anywhere: besides the standard
// library they import what is named here, and nothing else.
func leaves() map[string]string {
	return map[string]string{"smtp": "golang.org/x/sys/unix", "pop3": "", "smtp/sasl": "github.com/xdg-go/",
		"smtp/mailaddr": "", "smtp/admission": "", "smtp/printable": ""}
}

// isHelper recognises packages that exist for tests.
func isHelper(pkg string) bool {
	return strings.HasSuffix(path.Base(pkg), "test") || pkg == "cluster/spool/memory"
}

// listed is what go list says of a package.
type listed struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func (l listed) name() string { return strings.TrimPrefix(l.ImportPath, module) }

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Doc,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		err := d.Decode(&l)
		if err == io.EOF {
			return all
		}
		require.NoError(t, err)
		all = append(all, l)
	}
}

func TestImportsPointDownwards(t *testing.T) {
	for _, l := range list(t) {
		if isHelper(l.name()) {
			checkHelper(t, l)
			continue
		}
		allowed, ok := lookup(l.name())
		if !ok {
			t.Errorf("%s has no place in the layers; give it one in deploy/arch/imports_test.go", l.name())
			continue
		}
		for _, i := range ours(l.Imports) {
			switch {
			case isHelper(i):
				t.Errorf("%s imports %s, which is for tests", l.name(), i)
			case !matches(allowed, i):
				t.Errorf("%s must not import %s", l.name(), i)
			}
		}
		checkTests(t, l, allowed)
	}
}

// checkTests lets tests import what their package may, the package itself, and
// helpers.
func checkTests(t *testing.T, l listed, allowed []string) {
	for _, i := range ours(append(l.TestImports, l.XTestImports...)) {
		if i != l.name() && !isHelper(i) && !matches(allowed, i) {
			t.Errorf("the tests of %s must not import %s", l.name(), i)
		}
	}
}

// checkHelper lets a helper import the package it helps to test, what that one
// may, and other helpers.
func checkHelper(t *testing.T, l listed) {
	parent := path.Dir(l.name())
	allowed, _ := lookup(parent)
	for _, i := range ours(append(append(l.Imports, l.TestImports...), l.XTestImports...)) {
		if i != parent && i != l.name() && !isHelper(i) && !matches(allowed, i) {
			t.Errorf("the test helper %s must not import %s", l.name(), i)
		}
	}
}

func TestLeavesImportOnlyTheStandardLibrary(t *testing.T) {
	for _, l := range list(t) {
		for leaf, besides := range leaves() {
			if l.name() != leaf {
				continue
			}
			for _, i := range l.Imports {
				if strings.Contains(strings.Split(i, "/")[0], ".") && (besides == "" || !strings.HasPrefix(i, besides)) {
					t.Errorf("%s must not import %s", leaf, i)
				}
			}
		}
	}
}

// TestSASLIsWrittenOnce: who speaks SMTP or POP3 has the mechanisms, and their base64, from smtp/sasl.
func TestSASLIsWrittenOnce(t *testing.T) {
	for _, l := range list(t) {
		switch l.name() {
		case "smtp", "pop3", "queue/remote", "node/inbound", "node/maildrop", "cmd/relayctl":
			require.NotContains(t, l.Imports, "encoding/base64", l.name())
		}
	}
}

func TestTopLevelFolders(t *testing.T) {
	allowed := []string{"cluster", "cmd", "deploy", "node", "pop3", "queue", "smtp"}
	for _, l := range list(t) {
		top, _, _ := strings.Cut(l.name(), "/")
		require.Contains(t, allowed, top, "package %s: no new top-level folders", l.name())
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, l := range list(t) {
		require.NotEmpty(t, l.Doc, "package %s has no doc comment", l.name())
	}
}

// ours keeps the imports of this module, without its name.
func ours(imports []string) []string {
	var all []string
	for _, i := range imports {
		if rest, ok := strings.CutPrefix(i, module); ok {
			all = append(all, rest)
		}
	}
	return all
}

// lookup finds the line of a package: its own, or that of the nearest folder.
func lookup(pkg string) ([]string, bool) {
	all := layers()
	if allowed, ok := all[pkg]; ok {
		return allowed, true
	}
	for dir := path.Dir(pkg); dir != "."; dir = path.Dir(dir) {
		if allowed, ok := all[dir+"/..."]; ok {
			return allowed, true
		}
	}
	return nil, false
}

func matches(allowed []string, pkg string) bool {
	for _, a := range allowed {
		if dir, ok := strings.CutSuffix(a, "/..."); ok && strings.HasPrefix(pkg, dir+"/") || a == pkg {
			return true
		}
	}
	return false
}

// A rule that lets everything through would go unnoticed.
func TestRulesCatch(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"queue", "queue/bounce", true},
		{"queue", "cluster", false},
		{"queue/bounce", "queue", false},
		{"cluster", "cluster/internal/wire", true},
		{"cluster", "smtp", false},
		{"cluster/disk", "cluster", false},
		{"cluster/disk/log", "cluster/disk", false},
		{"cluster/session", "cluster", false},
		{"cluster/session", "cluster/transport", false},
		{"cluster/propose", "cluster/transport", false},
		{"cluster/transport", "cluster/propose", false},
		{"cluster/members", "cluster/transport", false},
		{"cluster/datadir", "cluster/members", false},
		{"cluster/pki", "cluster/datadir", false},
		{"cluster/clock", "cluster/propose", false},
		{"cluster/disk/log", "cluster/spool", false},
		{"smtp", "pop3", false},
		{"node", "node/inbound", true},
		{"node/inbound", "node/outbound", false},
		{"node/inbound", "node/maildrop", false},
		{"node/inbound", "node/operator", false},
		{"node/outbound", "node/inbound", false},
		{"node/maildrop", "node/inbound", false},
		{"node/operator", "node/inbound", false},
		{"node/outbound", "node/operator", false},
		{"node/operator", "node/outbound", false},
		{"node/maildrop", "node/outbound", false},
		{"node/maildrop", "node/operator", false},
		{"node/outbound", "node/maildrop", false},
		{"node/operator", "node/maildrop", false},
		{"node/replica", "node/directory", false},
		{"node/plan", "node/login", false},
		{"cmd/relayctl", "cluster", false},
		{"node/directory", "smtp", false},
		{"smtp/mailaddr", "smtp", false},
		{"deploy/bench", "smtp", true},
	} {
		allowed, ok := lookup(c.from)
		require.True(t, ok)
		require.Equal(t, c.allowed, matches(allowed, c.to), "%s imports %s", c.from, c.to)
	}
	_, ok := lookup("util")
	require.False(t, ok)
}
