package admin

import (
	"net/netip"
	"strings"
	"time"
)

// QueueFilter selects waiting mail. Empty fields match all. A message matches
// where its own fields do and at least one recipient does.
type QueueFilter struct {
	State            string `json:"state,omitempty" query:"state" required:"false" enum:"queued,active,deferred,held,suspended" doc:"of a recipient"`
	Domain           string `json:"domain,omitempty" query:"domain" required:"false" doc:"of a recipient; *.example.com for all below"`
	Sender           string `json:"sender,omitempty" query:"sender" required:"false" doc:"address, @domain, part with *, or <> for the null path"`
	Recipient        string `json:"recipient,omitempty" query:"recipient" required:"false" doc:"address, @domain or part with *"`
	Owner            string `json:"owner,omitempty" query:"owner" required:"false" doc:"node id"`
	OlderThanSeconds int64  `json:"older_than_seconds,omitempty" query:"older_than_seconds" required:"false" minimum:"0"`
	Error            string `json:"error,omitempty" query:"error" required:"false" doc:"text in the last reply, any case"`
}

// Empty reports whether the filter matches everything.
func (f QueueFilter) Empty() bool { return f == QueueFilter{} }

// Pick returns m with the recipients that match, and whether any does. It does
// not change m.
func (f QueueFilter) Pick(m QueueMessage) (QueueMessage, bool) {
	if !f.MatchMessage(m.Sender, m.Owner, time.Duration(m.AgeSeconds)*time.Second) {
		return m, false
	}
	if f.State == "" && f.Domain == "" && f.Recipient == "" && f.Error == "" {
		return m, len(m.Recipients) > 0
	}
	var kept []QueueRecipient
	for _, r := range m.Recipients {
		if f.MatchRecipient(r) {
			kept = append(kept, r)
		}
	}
	m.Recipients = kept
	return m, len(kept) > 0
}

// MatchMessage judges the fields of the message alone, so that a caller may
// skip reading its recipients.
func (f QueueFilter) MatchMessage(sender, owner string, age time.Duration) bool {
	switch {
	case f.Owner != "" && f.Owner != owner:
		return false
	case f.OlderThanSeconds > 0 && age < time.Duration(f.OlderThanSeconds)*time.Second:
		return false
	case f.Sender == "":
		return true
	}
	return MatchAddress(f.Sender, sender)
}

// MatchRecipient judges one recipient.
func (f QueueFilter) MatchRecipient(r QueueRecipient) bool {
	switch {
	case f.State != "" && f.State != r.State:
		return false
	case f.Domain != "" && !matchDomain(f.Domain, r.Domain):
		return false
	case f.Recipient != "" && !MatchAddress(f.Recipient, r.Address):
		return false
	case f.Error != "" && !strings.Contains(strings.ToLower(r.LastReply), strings.ToLower(f.Error)):
		return false
	}
	return true
}

func matchDomain(pattern, domain string) bool {
	if strings.Contains(pattern, "*") {
		return glob(strings.ToLower(pattern), strings.ToLower(domain))
	}
	return strings.EqualFold(pattern, domain)
}

// MatchAddress reports whether an address fits a pattern: the address itself,
// @domain for a whole domain, a bare domain or local part is not guessed, * for
// any run of characters, <> for the null path; case never matters.
func MatchAddress(pattern, address string) bool {
	pattern, address = strings.ToLower(pattern), strings.ToLower(address)
	if pattern == "<>" {
		return address == ""
	}
	pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "<"), ">")
	switch {
	case strings.Contains(pattern, "*"):
		return glob(pattern, address)
	case strings.HasPrefix(pattern, "@"):
		return strings.HasSuffix(address, pattern)
	}
	return pattern == address
}

// MatchClient reports whether a client's address, with its port, fits a pattern:
// an address, a network such as 192.0.2.0/24, or part of either with *.
func MatchClient(pattern, address string) bool {
	host := address
	if ap, err := netip.ParseAddrPort(address); err == nil {
		host = ap.Addr().Unmap().String()
		if network, err := netip.ParsePrefix(pattern); err == nil {
			return network.Contains(ap.Addr().Unmap())
		}
		if a, err := netip.ParseAddr(pattern); err == nil {
			return a.Unmap() == ap.Addr().Unmap()
		}
	}
	return glob(strings.ToLower(pattern), strings.ToLower(host)) || strings.EqualFold(pattern, address)
}

// MatchUser reports whether a login fits a pattern: an address as in
// MatchAddress, or a local part.
func MatchUser(pattern, user string) bool {
	local, _, _ := strings.Cut(user, "@")
	return user != "" && (MatchAddress(pattern, user) || strings.EqualFold(pattern, local))
}

// glob matches * against any run of characters, in linear steps per star.
func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, last) && len(text) >= len(last)
}

// QueuePage asks for one page of the queue.
type QueuePage struct {
	Filter QueueFilter
	// Sort is the order: created (the default, oldest first, the only one that
	// needs no pass over the whole queue), size, attempts, next_attempt,
	// sender, domain; a leading - turns it round.
	Sort string
	// After continues behind the last message of the page before: the cursor
	// which that page returned. Empty: from the start.
	After string
	// Limit is the most messages to return; 1 to MaxPage.
	Limit int
}

// MaxPage bounds a page of the queue.
const MaxPage = 1000
