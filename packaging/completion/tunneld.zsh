#compdef tunneld
_arguments \
  '--config[configuration file of the network]:file:_files -g "*.(yaml|yml)"' \
  '--check[only check the configuration]' \
  '--run-dir[where the control socket is made]:directory:_files -/' \
  '(- *)'{-h,--help}'[print help]' \
  '(- *)--version[print the version]'
