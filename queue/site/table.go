package site

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Table says which suffixes of MX hosts belong to which site.
type Table struct {
	names []string
	ends  map[string]string // a suffix without a dot in front, to the site
}

// builtIn are providers whose customers have MX hosts of their own, or whose hosts have several names.
var builtIn = []string{
	"outlook mail.protection.outlook.com mx.microsoft olc.protection.outlook.com",
	"google google.com googlemail.com l.google.com",
	"yahoo yahoodns.net",
	"icloud mail.icloud.com",
	"proofpoint pphosted.com ppe-hosted.com",
	"mimecast mimecast.com",
	"barracuda barracudanetworks.com",
	"cisco iphmx.com",
	"messagelabs messagelabs.com",
	"trendmicro trendmicro.com trendmicro.eu",
	"sophos hydra.sophos.com",
	"hornetsecurity hornetsecurity.com antispameurope.com",
	"zoho zoho.com zoho.eu zoho.in",
	"fastmail messagingengine.com",
	"proton protonmail.ch",
	"amazon amazonaws.com",
	"gmx gmx.net web.de kundenserver.de",
	"ovh mail.ovh.net",
	"yandex yandex.net yandex.ru",
	"mailru mail.ru",
	"qq qq.com",
	"netease netease.com 163.com",
	"comcast comcast.net",
	"mailgun mailgun.org",
	"sendgrid sendgrid.net",
}

// maxRows bounds the rows of an operator's own.
const maxRows = 1000

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	suffixForm = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)+$`)
)

// Parse makes a table of the operator's rows, NAME SUFFIX…, and the built-in ones. A row with the name of a built-in
// one replaces it; without suffixes it takes it away.
func Parse(rows []string) (*Table, error) {
	if len(rows) > maxRows {
		return nil, fmt.Errorf("%d sites are too many: at most %d", len(rows), maxRows)
	}
	t := &Table{ends: map[string]string{}}
	own := map[string]bool{}
	for i, row := range rows {
		if err := t.add(row, own); err != nil {
			return nil, fmt.Errorf("site %d: %w", i+1, err)
		}
	}
	for _, row := range builtIn {
		if name, _, _ := strings.Cut(row, " "); !own[name] {
			if err := t.add(row, map[string]bool{}); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(t.names)
	return t, nil
}

func (t *Table) add(row string, seen map[string]bool) error {
	words := strings.Fields(strings.ToLower(row))
	if len(words) == 0 || !nameForm.MatchString(words[0]) {
		return fmt.Errorf("%q does not begin with a name of letters, digits, dots, dashes and underscores", row)
	}
	if seen[words[0]] {
		return fmt.Errorf("%s is there twice", words[0])
	}
	seen[words[0]] = true
	for _, word := range words[1:] {
		end := strings.Trim(word, ".")
		if !suffixForm.MatchString(end) {
			return fmt.Errorf("%q is not the end of a host's name such as mail.protection.outlook.com", word)
		}
		if suffix, known := publicsuffix.PublicSuffix(end); suffix == end && known {
			return fmt.Errorf("%q is an end that anybody's hosts may have", word)
		}
		if _, taken := t.ends[end]; !taken {
			t.ends[end] = words[0]
		}
	}
	if len(words) > 1 {
		t.names = append(t.names, words[0])
	}
	return nil
}

// Rows lists the sites of the table with their suffixes, as Parse reads them.
func (t *Table) Rows() (rows []string) {
	ends := map[string][]string{}
	for end, name := range t.ends {
		ends[name] = append(ends[name], end)
	}
	for _, name := range t.names {
		slices.Sort(ends[name])
		rows = append(rows, strings.Join(append([]string{name}, ends[name]...), " "))
	}
	return rows
}

// Name is the site of a domain whose MX hosts are these: the table's, if all of them belong to one there; else what the
// hosts' names have in common, with a mark of the set; without hosts, or with the null MX, the domain.
func (t *Table) Name(domain string, hosts []string) string {
	set := make([]string, 0, len(hosts))
	for _, h := range hosts {
		if h = strings.ToLower(strings.Trim(h, ".")); h != "" {
			set = append(set, h)
		}
	}
	if len(set) == 0 {
		return strings.ToLower(domain)
	}
	slices.Sort(set)
	set = slices.Compact(set)
	name := t.of(set[0])
	for _, h := range set[1:] {
		if t.of(h) != name {
			name = ""
		}
	}
	if name != "" {
		return name
	}
	return common(set)
}

// of is the site of one host; empty: none of the table.
func (t *Table) of(host string) string {
	for name := host; strings.Contains(name, "."); {
		if site, ok := t.ends[name]; ok {
			return site
		}
		_, name, _ = strings.Cut(name, ".")
	}
	return ""
}

// common is the longest end at a dot that the hosts share and that belongs to somebody, or else the first host, with
// four digits of the set: two sets never have one name, as far as that tells.
func common(set []string) string {
	end := set[0]
	for _, h := range set[1:] {
		for end != "" && h != end && !strings.HasSuffix(h, "."+end) {
			_, end, _ = strings.Cut(end, ".")
		}
	}
	if suffix, _ := publicsuffix.PublicSuffix(end); end == "" || suffix == end {
		end = set[0]
	}
	if len(set) == 1 {
		return end
	}
	sum := sha256.Sum256([]byte(strings.Join(set, "\n")))
	return end + "~" + hex.EncodeToString(sum[:2])
}
