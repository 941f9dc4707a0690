package main

import (
	"crypto/subtle"
	"net"
	"strings"

	"github.com/jimlambrt/gldap"
)

// The directory's only user; everyone may search for it, and it binds with the password given at the start.
const (
	ldapUser   = "ada"
	ldapUserDN = "cn=ada,ou=people,dc=example,dc=org"
)

// serveDirectory answers the two operations that Vault's ldap method makes: bind, and the search for the user's entry.
func serveDirectory(addr, password string) error {
	server, err := gldap.NewServer()
	if err != nil {
		return err
	}
	mux, err := gldap.NewMux()
	if err != nil {
		return err
	}
	err = mux.Bind(func(w *gldap.ResponseWriter, r *gldap.Request) {
		response := r.NewBindResponse(gldap.WithResponseCode(gldap.ResultInvalidCredentials))
		defer func() { _ = w.Write(response) }()
		m, err := r.GetSimpleBindMessage()
		if err != nil {
			return
		}
		known := strings.EqualFold(m.UserName, ldapUserDN) &&
			subtle.ConstantTimeCompare([]byte(m.Password), []byte(password)) == 1
		if known || m.UserName == "" {
			response.SetResultCode(gldap.ResultSuccess)
		}
	})
	if err != nil {
		return err
	}
	err = mux.Search(func(w *gldap.ResponseWriter, r *gldap.Request) {
		response := r.NewSearchDoneResponse(gldap.WithResponseCode(gldap.ResultSuccess))
		defer func() { _ = w.Write(response) }()
		m, err := r.GetSearchMessage()
		isUser := err == nil && (strings.Contains(m.BaseDN, "ou=people") || strings.EqualFold(m.BaseDN, ldapUserDN))
		if isUser {
			_ = w.Write(r.NewSearchResponseEntry(ldapUserDN, gldap.WithAttributes(map[string][]string{"cn": {ldapUser}})))
		}
	})
	if err != nil {
		return err
	}
	if err := server.Router(mux); err != nil {
		return err
	}
	// Taken and released, so that a port in use is an error here and not in the background.
	probe, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	probe.Close()
	go func() { must(server.Run(addr)) }()
	return nil
}
