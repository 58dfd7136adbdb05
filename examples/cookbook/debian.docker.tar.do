redo-ifchange install.tar app.tar
"${RDVM:-rdvm}" pack --format docker --tag debian-app:latest --cmd /init -o "$3" --layer install.tar --layer app.tar
