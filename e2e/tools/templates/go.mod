module lockstep/oracle

go 1.24
